"""The arguments and options of the `lsb` command, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

ConfigFile = Annotated[Path, Argument(metavar="CONFIG", help="The job's YAML file.", show_default=False)]
RunUri = Annotated[str, Argument(metavar="RUN", help="<root>/runs/<run>, as `lsb run` prints it.")]
RunOrConfig = Annotated[
    str, Argument(metavar="RUN|CONFIG", help="<root>/runs/<run>, or the job's YAML file.", show_default=False)
]
Json = Annotated[bool, Option("--json", help="Print JSON instead of text.")]
# Every command takes it: `lsb.cli.main.run_command` looks for it before anything else.
Verbose = Annotated[bool, Option("--verbose", "-v", help="Show tracebacks of errors, and Prefect's log lines.")]
Resume = Annotated[
    str | None, Option(metavar="RUN", help="Go on with this run and no other; refused if settings differ.")
]

# init
SourceFolder = Annotated[
    str, Argument(metavar="SOURCE", help="Folder or s3:// URI of the pictures to translate.", show_default=False)
]
TargetFolder = Annotated[
    str, Argument(metavar="TARGET", help="Folder or s3:// URI of pictures of the target look.", show_default=False)
]
Model = Annotated[
    str,
    Option(help="A diffusers folder, a .safetensors file, an s3:// URI of either, or a hub id.", show_default=False),
]
NewFile = Annotated[Path, Option("--out", metavar="FILE", help="The file to write; it must not exist.")]
NewStore = Annotated[
    str | None, Option(metavar="ROOT", help="Where runs are to be kept; by default `store` beside the file.")
]
LearnPrompts = Annotated[
    bool, Option("--learn", help="Have a word for each look learned from its pictures, instead of the looks' names.")
]

# tune
TunedMethod = Annotated[
    str | None, Option("--method", metavar="NAME", help="Tune this method instead of the job's own.")
]
TuningSeconds = Annotated[
    float | None,
    Option(
        "--seconds",
        min=1,
        metavar="N",
        help="Seconds that it may take; those of learning prompts come on top. Without it and --tries 600.",
    ),
]
Tries = Annotated[
    int | None,
    Option("--tries", min=1, metavar="N", help="Settings to try at most, however long that takes without --seconds."),
]
TriedSettings = Annotated[
    list[str],
    Option("--settings", metavar="NAME=V,V", help="Show these values, all combinations if repeated; search for none."),
]
WriteJob = Annotated[bool, Option("--write", help="Change the job's own file instead of writing a new one.")]
TunedFile = Annotated[
    Path | None, Option("--out", metavar="FILE", help="The new file, beside the job's; by default JOB.tuned.yaml.")
]

# Which records
Records = Annotated[
    list[str], Option(metavar="NAME", help="Only this record: its id or its source key, taken literally. Repeatable.")
]
Match = Annotated[
    list[str], Option(metavar="PATTERN", help="Only source keys like 'cats/*'; `*` stands for slashes, too.")
]
Codes = Annotated[list[str], Option(metavar="CODE", help="Only records with this error code.")]
Flags = Annotated[list[str], Option(metavar="FLAG", help="Only records with this flag, such as no_op.")]
Shards = Annotated[list[str], Option(metavar="SHARD", help="Only records of this shard, such as 00003.")]
Statuses = Annotated[list[str], Option(metavar="STATUS", help="Only records that are `failed`, or `pending`.")]

# run
Resolve = Annotated[bool, Option("--dry-run", help="Print what would be done; write nothing.")]
Fresh = Annotated[bool, Option("--fresh", help="Carry nothing from the runs before: translate all.")]
Refit = Annotated[bool, Option("--refit", help="Learn the prompts from today's images.")]
Reread = Annotated[bool, Option("--reread", help="Read every file, even if its size and time are known.")]
AcceptVanished = Annotated[bool, Option("--accept-vanished", help="Go on however many records the source has lost.")]
RecordsFrom = Annotated[
    str | None, Option(metavar="RUN", help="Only records of this run, chosen by the options below.")
]

# rerun
Failed = Annotated[bool, Option("--failed", help="Records without a row and retryable failures: the default.")]
IncludeTerminal = Annotated[bool, Option("--include-terminal", help="Include failures that are not retryable.")]
Choose = Annotated[bool, Option("--dry-run", help="Print exactly what would run; write nothing.")]
OtherConfig = Annotated[
    Path | None, Option(metavar="FILE", help="The job's file, if its paths or settings have changed.")
]
Workers = Annotated[int | None, Option(min=1, help="Instead of execution.workers.")]
Batch = Annotated[int | None, Option(min=1, help="Instead of execution.batch.")]
Device = Annotated[str | None, Option(help="Instead of execution.device.")]

# status
Watch = Annotated[bool, Option("--watch", help="Say it again whenever it has changed, until nothing is left to do.")]

# verify
Sample = Annotated[int | None, Option(min=0, help="Check only this many outputs, 0 for none; all tables are checked.")]
PublicKey = Annotated[
    Path | None, Option(metavar="PUBLIC", help="Ed25519 public key (PEM) that must have signed the snapshot.")
]
SnapshotDigest = Annotated[
    str | None, Option(metavar="DIGEST", help="Digest that the newest snapshot must have, as printed before.")
]
Replay = Annotated[int | None, Option(min=1, metavar="N", help="Translate N outputs again and compare the pixels.")]
MovedModel = Annotated[str | None, Option(help="Where the run's model lies now, for --replay, if it has been moved.")]
MovedLoras = Annotated[
    list[str] | None, Option(metavar="FILE", help="LoRA file of the run's model, for --replay; repeatable.")
]
SampleSeed = Annotated[str, Option(help="Any text; another one chooses another sample.")]

# diff, trace, export, report
Before = Annotated[str, Argument(metavar="A", help="<root>/runs/<run> or <root>/datasets/<name>/<version>.")]
After = Annotated[str, Argument(metavar="B", help="Another of the same kind.")]
Image = Annotated[
    str,
    Argument(metavar="OUTPUT", help="URI, path or key of an output; or a record id, a source's key or any image file."),
]
RunToLookIn = Annotated[
    str | None, Option(metavar="RUN", help="The run to look in; not needed for an output's path in a store.")
]
Destination = Annotated[Path, Argument(metavar="DEST", help="A folder; made if missing.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace files that differ.")]
Copy = Annotated[Path | None, Option(metavar="FILE", help="Where to write a copy of the page.")]

# gc, erase
Root = Annotated[str, Argument(metavar="ROOT", help="A job's `store`: where `runs` and `datasets` lie.")]
Delete = Annotated[bool, Option("--dry-run", help="Print what would be deleted; delete nothing.")]
OlderThan = Annotated[float, Option(metavar="HOURS", help="Spare what is younger; at least 24.")]
ErasedRecords = Annotated[
    list[str],
    Option(metavar="NAME", help="The image of this record: its id or its source key, taken literally. Repeatable."),
]
ErasedMatch = Annotated[
    list[str], Option(metavar="PATTERN", help="The images of source keys like 'cats/*'; `*` stands for slashes, too.")
]
Reason = Annotated[str, Option(help="One line; kept for ever, so it should name nobody.")]
