"""Start a demo server with keys in files, and print the commands to try next.

It creates two folders, which you can delete at any time: `.venv` (the installed packages) and `kes-demo`
(configuration, certificate, keys). A second start uses the same keys. If dist/ has a wheel of kes-native, or if there
is cargo to build it, the server uses that: KES_RUNTIME=hypercorn in the environment avoids it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from environment import ROOT, add_native, prepare

ADDRESS = "127.0.0.1:7373"
"""Where the server listens, unless the environment variable KES_DEMO_ADDRESS says otherwise."""

CONFIG = """\
address: {address}
admin:
  identity: {admin}
tls:
  key: {folder}/server.key
  cert: {folder}/server.crt
keystore:
  fs:
    path: {folder}/keys
"""

NEXT = """
Paste this into another terminal, in this folder:

  export PATH="{programs}:$PATH"
  export KES_SERVER=https://{address}
  export KES_API_KEY=$(cat "{folder}/admin.api-key")

  kes key create my-key -k
  kes key dek my-key -k

After you change {folder}/config.yml, make this server reload it:

  kill -HUP {pid}

The commands need -k because the server's certificate is self-signed.
Ctrl-C stops the server; the keys stay in {folder}/keys.
"""


def main() -> None:
    programs = prepare(dev=False)
    runtime = os.environ.get("KES_RUNTIME") or "auto"
    if runtime != "hypercorn":
        add_native(programs)
    kes = str(programs / "kes")
    folder = Path(os.environ.get("KES_DEMO", ROOT / "kes-demo"))
    chosen = os.environ.get("KES_DEMO_ADDRESS")
    config = folder / "config.yml"
    if not config.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "keys").mkdir(mode=0o700, exist_ok=True)  # otherwise the server warns that it does not exist
        made = subprocess.run([kes, "identity", "--json"], check=True, capture_output=True, text=True)
        admin = json.loads(made.stdout)
        secret = os.open(folder / "admin.api-key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(secret, "w") as file:
            file.write(admin["api_key"] + "\n")
        certificate = ["--key", str(folder / "server.key"), "--cert", str(folder / "server.crt"), "--expiry", "8760h"]
        subprocess.run(
            [kes, "identity", "new", "-f", *certificate, "--ip", "127.0.0.1", "localhost"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        config.write_text(CONFIG.format(address=chosen or ADDRESS, admin=admin["identity"], folder=folder))
    written = re.search(r"^address: *['\"]?([^\s'\"]+)", config.read_text(), re.MULTILINE)
    address = chosen or (written[1] if written else ADDRESS)
    # The server takes the place of this process, so it has the same process ID.
    print(NEXT.format(programs=programs, address=address, folder=folder, pid=os.getpid()), flush=True)
    # The log says which runtime it is.
    options = ["--config", str(config), "--runtime", runtime, *(["--addr", chosen] if chosen else [])]
    os.execv(kes, [kes, "server", *options])


if __name__ == "__main__":
    main()
