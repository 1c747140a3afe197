"""The handlers of the API, a module a resource. They know keys and policies, but no back end and no HTTP."""
