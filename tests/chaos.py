"""The embedded model through the whole pipeline on S3, while the command and its model processes are killed.

    python tests/chaos.py --kills 12 --seed 7      # `make chaos`; a few minutes on two idle cores

Starts an object server, runs the emoji job on it with two workers, and kills at random moments, in turn one of its
processes with the model and the command itself. A command that was killed is issued again, until one ends by itself.
Prints what became of it all and ends with 0 if all pictures are there, `verify` passes, and one
more run finds nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from examples.object_server import ObjectServer
from lsb.store.store import open_store

REPOSITORY = Path(__file__).resolve().parent.parent
JOB = REPOSITORY / "examples" / "emoji" / "job.yaml"
LSB = [sys.executable, "-m", "lsb.cli.main"]
IMAGES_PER_KILL = 8  # of 141, so that a dozen kills come before the end
GIVE_UP = 40  # commands


def make_job(folder: Path, store: str) -> Path:
    """The emoji job in small shards and frequent commits, with plain prompts: nothing to learn before."""
    job = yaml.safe_load(JOB.read_text())
    place = JOB.parent
    job |= {"name": "chaos", "store": store, "model": str(place / "model")}
    job["source"]["path"] = str((place / job["source"]["path"]).resolve())
    job["prompts"] = {
        "source": {"domain": "flat", "text": "a flat icon"},
        "target": {"domain": "3d", "text": "a 3d icon"},
    }
    job["execution"] = {"batch": 4, "shard_size": 24, "workers": 2, "commit_seconds": 2}
    job["evaluate"] = {"sample": 4}
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    return file


def models_of(command: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes with the model: what the server that forks them has forked."""
    with suppress(psutil.Error):
        children = psutil.Process(command.pid).children()
        servers = [child for child in children if any("forkserver" in word for word in child.cmdline())]
        return [model for server in servers for model in server.children()]
    return []


def lsb(*arguments: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run([*LSB, *arguments, "--json"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def rage(config: Path, store: str, kills: int, chance: random.Random, log: Path) -> tuple[Counter[str], list[int], str]:
    """Kill until `kills` are done, then let the command finish: kills by victim, exit codes, the last answer."""
    done: Counter[str] = Counter()
    codes: list[int] = []
    while len(codes) < GIVE_UP:
        with log.open("ab") as complaints:
            command = subprocess.Popen(
                [*LSB, "run", str(config), "--json"], stdout=subprocess.PIPE, stderr=complaints, cwd=REPOSITORY
            )
        while command.poll() is None:
            number = sum(done.values())
            if number < kills and outputs(store) >= (number + chance.random()) * IMAGES_PER_KILL:
                if done["model"] > done["command"] and models_of(command):
                    command.kill()
                    command.wait()
                    done["command"] += 1
                elif models := models_of(command):
                    with suppress(psutil.NoSuchProcess):
                        chance.choice(models).kill()
                        done["model"] += 1
            time.sleep(0.2)
        assert command.stdout is not None
        answer = command.stdout.read().decode()
        command.stdout.close()
        codes.append(command.returncode)
        if command.returncode == 0:
            return done, codes, answer
        if command.returncode not in (-9, 5):
            break
    raise SystemExit(f"chaos: the command ended with {codes[-1]}, see {log}")


def outputs(store: str) -> int:
    """Images that lie on the store, committed or not."""
    return sum(entry.key.endswith(".png") for entry in open_store(store).list("runs"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(arguments)
    chance = random.Random(args.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lsb-chaos-") as temporary:
        folder = Path(temporary)
        server = ObjectServer(folder / "objects")
        os.environ.update(server.environment)
        with server:
            log = REPOSITORY / "out" / "chaos.log"
            log.parent.mkdir(exist_ok=True)
            log.write_bytes(b"")
            config = make_job(folder, f"{server.uri}/chaos")
            kills, codes, answer = rage(config, f"{server.uri}/chaos", args.kills, chance, log)
            result = json.loads(answer)
            verified, verdict = lsb("verify", result["run"])
            again, second = lsb("run", str(config))
            summary = {
                "kills": dict(kills),
                "commands": len(codes),
                "exit_codes": codes,
                "seconds": round(time.monotonic() - began),
                "records": result["counts"],
                "verify": {"exit_code": verified, "checked": verdict["checked"], "orphans": verdict["orphans"]},
                "run_once_more": {"exit_code": again, "translated": second["translated"]},
            }
    print(json.dumps(summary, indent=2))
    enough = sum(kills.values()) >= args.kills
    whole = set(result["counts"]) <= {"ok", "quarantined"}
    return 0 if enough and whole and (verified, again, second["translated"]) == (0, 0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())
