"""A gallery of faulty plugins, and what a user reads of each.

Each class is a plugin with one fault, which its docstring names. `answers.txt` has the exact lines with which the
server, a command or the conformance kit answers. `test_gallery.py` compares them.
"""
