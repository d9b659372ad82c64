"""Runs in parts: the chips of a run spread over processes or jobs, and joined again.

With `--shard 3/25 --out DIR`, the part is a run of its own in DIR/shard-3-of-25. All parts share
the trainings in DIR/trained: the part that comes first trains, others wait for it, and if it is
killed, another one goes on from its checkpoint. So all chips are of one model, on any machines.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from aimc_bridge.commands import Output
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.files import read_text, replacing
from aimc_bridge.sealed_files import damaged, read_facts, read_json, read_tensors
from aimc_bridge.shards import check_complete, check_once, merge_shards, shard_of
from aimc_bridge.sweep_files import problem_of
from benchmarks.report import answers
from benchmarks.report import run as report
from benchmarks.report.record import PUT_BACK, read_run
from benchmarks.studies import claims, folder, held_out, inputs, joined
from benchmarks.studies.claims import Claim
from benchmarks.studies.replicas import Replica
from benchmarks.studies.settings import Settings
from benchmarks.studies.whole_run import GROWING, WholeRun
from benchmarks.tasks import Task

TRAINED = "trained"
_ENGINES = ("native", "aihwkit")
_MERGING = ".merging"  # in the folder of the whole run until all of it is there
_GO_ON = "go on with this shard (--resume)"


def folder_of(out: Path, shard: str) -> Path:
    """Return the folder of a part of a run.

    Args:
        out: The `--out` that all parts share.
        shard: Such as "3/25".
    """
    number, count = shard_of(shard)
    return out / f"shard-{number}-of-{count}"


def share_trainings(
    settings: Settings,
    tasks: dict[str, Task],
    out: Path,
    output: Output,
    words: tuple[str, ...],
    *,
    resume: bool,
) -> None:
    """Take the folder of a part; train what all parts share, or copy it from the part that did.

    Args:
        settings: The options of this part.
        tasks: The tasks of the run.
        out: The `--out` that all parts share.
        output: Where notes go.
        words: The words of the command line.
        resume: Whether --resume was given.

    Raises:
        UsageError: If the part's folder or the trainings are of another run.
        TrainingError: If a training diverges.
    """
    whole = dataclasses.replace(settings, shard=None)
    place, part = out / TRAINED, folder_of(out, str(settings.shard))
    folder.enter(part, settings.claim(), resume, free=GROWING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.resumable(part, output, out))
        place.mkdir(parents=True, exist_ok=True)
        output.say(f"trainings of all shards in {place}; if another shard trains, this one waits")
        stack.enter_context(folder.alone(place, wait=True))
        work = WholeRun(whole, tasks, place, output, words, Replica())
        folder.enter(place, whole.claim(), resume=True, free=GROWING)
        for trainings in work.tasks.values():
            for phases in trainings:
                phases.train()
        for name in sorted(path.name for path in (place / "work").iterdir()):
            _take(place / "work" / name, part / "work" / name)


def _take(trained: Path, part: Path) -> None:
    """Copy finished weights, their histories and their seconds; what is there already stays."""
    for path in sorted(trained.rglob("*")):
        target = part / path.relative_to(trained)
        if path.is_dir() or target.exists() or path.name.startswith("."):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)


# --- joining the parts ----------------------------------------------------------------------------


def merge(parts: Sequence[Path], into: Path) -> None:
    """Join the folders of all parts of a run to the folder of the whole run.

    Its results.csv equals that of the run without shards, bit for bit. Only the folders of the
    parts are needed: not the checkpoint, the data or the file of a task.

    Args:
        parts: The folders of the parts.
        into: A new folder.

    Raises:
        UsageError: If the parts are of different runs, if `into` holds something, or if no folder
            is named.
        DataError: If a part is missing, unfinished, there twice or of another model.
        CheckpointError: If a file is damaged, and no other part has it.
    """
    if not parts:
        raise UsageError("--merge: name the folders of all shards")
    check_once(parts, "folder")
    _remove_dead_merge(into)
    folder.holds_a_run(into, None, "--merge")
    known = {part: _claim_in(part) for part in parts}
    _check_claims(known)
    check_complete([(part, _number_of(part, claim)) for part, claim in known.items()], "folder")
    for part in parts:
        report.record_of(part, str(part))  # it is finished, and nothing in it is damaged
        claims.check_notes(part, "nobody knows whether this shard is of the same models and data")
    names = _files_of(parts)
    for name in names:
        _check_there([part / name for part in parts])
    program, words = _split(read_run(parts[0])["command"])
    claim = known[parts[0]]
    whole = dataclasses.replace(claim, arguments={**claim.arguments, "shard": None})
    into.mkdir(parents=True, exist_ok=True)
    with folder.alone(into, option="--merge"), _removed_unless_joined(into):
        (into / _MERGING).touch()
        for name in names:
            _merge_file([part / name for part in parts], into / name, known)
        folder.write_claim(into, whole)
        joined.write(into, parts[0], whole, shlex.join([*program, *_without_shard(words)]))
        (into / _MERGING).unlink()


def _claim_in(part: Path) -> Claim:
    """Return the claim of a part; raise UsageError if it has none, or a damaged one."""
    if not part.is_dir():
        raise UsageError(f"{part} is no folder; name the folders of all shards")
    if not (part / "run.json").exists() and not (part / "work").is_dir():
        raise UsageError(f"{part} holds no record of a run; name the folders of all shards")
    return folder.claim_in(part, f"{PUT_BACK} and {_GO_ON}")


def _number_of(part: Path, claim: Claim) -> tuple[int, int]:
    """Return which shard a part is, and of how many; raise UsageError if its run.json is wrong."""
    try:
        return shard_of(claim.arguments["shard"])
    except UsageError as error:
        raise UsageError(f"{part / 'run.json'}: {error}") from None


def _remove_dead_merge(into: Path) -> None:
    """Remove what a process left that was killed while it joined parts in this folder."""
    if (into / _MERGING).is_file():
        with folder.alone(into, option="--merge"):
            shutil.rmtree(into)


@contextlib.contextmanager
def _removed_unless_joined(into: Path) -> Iterator[None]:
    """Remove what is in the new folder if the block fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def _files_of(parts: Sequence[Path]) -> list[Path]:
    """Return the files of all parts, by their path in a part."""
    names = {
        path.relative_to(part)
        for part in parts
        for path in (part / "work").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    # the notes of the inputs say most; answers are compared with the results before them
    return sorted(names, key=lambda name: (name.name != folder.INPUTS, _is_answers(name), name))


def _is_answers(path: Path) -> bool:
    """Return whether a file is one of answers."""
    return path.name.endswith("-answers.safetensors")


def _is_digital(path: Path) -> bool:
    """Return whether a file is that of a digital model's metrics."""
    return path.name.startswith("digital-") and path.suffix == ".json"


def _is_sweep(path: Path) -> bool:
    """Return whether a file is that of a sweep, see `benchmarks.studies.phases.sweep_name`."""
    return path.suffix == ".csv" and any(f"-{engine}" in path.stem for engine in _ENGINES)


def _check_there(paths: list[Path]) -> None:
    """Check that all parts have a file, if it is one of results."""
    missing = [path for path in paths if not path.exists()]
    if missing and (_is_digital(paths[0]) or _is_sweep(paths[0])):
        raise DataError(f"{missing[0]} is missing; {_GO_ON}, which measures it again")


def _split(command: str) -> tuple[list[str], list[str]]:
    """Return the words of a program, "python -m benchmarks.run", and those after it."""
    words = shlex.split(command)
    return words[:3], words[3:]


def _merge_file(paths: list[Path], target: Path, known: dict[Path, Claim]) -> None:
    """Write one file of the whole run from those of the parts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_sweep(paths[0]):
        _merge_sweep(paths, target)
    elif _is_answers(paths[0]):
        answers.merge(paths, target)
    else:
        if paths[0].name == folder.INPUTS:
            _check_inputs(paths, known)
        if _is_digital(paths[0]):
            _check_equal(paths)
        _copy(_sound([path for path in paths if path.exists()]), target)


def _sound(paths: list[Path]) -> Path:
    """Return the first file that is not damaged: all shards have the same one, but for times.

    Tables have no checksum. Of them it is the one that most shards have, or the longest of those.
    """
    errors: list[CheckpointError] = []
    sound: list[Path] = []
    for path in paths:
        try:
            _check_sound(path)
            sound.append(path)
        except CheckpointError as error:
            errors.append(error)
    if sound and sound[0].suffix == ".csv":
        contents = [path.read_bytes() for path in sound]
        best = max(contents, key=lambda content: (contents.count(content), len(content)))
        return sound[contents.index(best)]
    if sound:
        return sound[0]
    advice = (
        "no shard has a sound one: put the former file back, or remove it in all shards and go on "
        "with one of them (--resume)"
    )
    raise damaged(paths[0], errors[0], advice)


def _check_sound(path: Path) -> None:
    """Raise CheckpointError if a file is damaged, as far as its kind tells."""
    if path.suffix == ".safetensors":
        read_tensors(path)
    elif path.name == "info.json":  # the one that has no checksum
        read_json(path)
    elif path.suffix == ".json":
        read_facts(path)
    elif path.suffix == ".csv":
        _check_table(path)


def _check_table(path: Path) -> None:
    """Raise CheckpointError if a CSV file is cut, or has rows of several lengths."""
    try:
        text = read_text(path)
        lengths = {len(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)}
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from None
    if len(lengths) != 1 or not text.endswith("\n"):
        raise CheckpointError(f"{path} is damaged (its end or a part of it is missing)")


def _merge_sweep(paths: list[Path], target: Path) -> None:
    """Join the sweep of all parts; say what to do about a part whose file cannot be used."""
    try:
        merge_shards(paths, into=target)
    except DataError as error:
        problem = problem_of(error)
        if any(problem.startswith(f"{path}: ") for path in paths):
            problem += f"; remove it and {_GO_ON} to measure its chips again"
        raise DataError(problem) from None


def _check_inputs(paths: list[Path], known: dict[Path, Claim]) -> None:
    """Check that the models and data of all parts are the same."""
    try:
        inputs.join(paths)
    except DataError as error:
        named = [
            f"{part} was run with --checkpoint {' '.join(words)}"
            for part, claim in known.items()
            if (words := claim.arguments.get("checkpoint"))
        ]
        told = f" ({'; '.join(named[:4])})" if named else ""
        raise DataError(
            f"{error}{told}; run the shards that differ again, with the model and data of the "
            "others"
        ) from None


def _check_equal(paths: list[Path]) -> None:
    """Check that the digital model gave the same numbers in all parts."""
    again = f"and {_GO_ON} to measure the digital model again"
    one, *others = (held_out.known_values(path, again) or {} for path in paths)
    for path, other in zip(paths[1:], others, strict=True):
        if path.read_bytes() != paths[0].read_bytes():
            told = (
                claims.changes(
                    [name for name in sorted(one) if one[name] != other.get(name)],
                    one,
                    other,
                    " and ",
                )
                or "other numbers"
            )
            raise DataError(
                f"{paths[0]} and {path} differ ({told}): the digital model or the test data are "
                "others; run one of these shards again, with the model and data of the other"
            )


def _check_claims(known: dict[Path, Claim]) -> None:
    """Raise UsageError if the folders are not parts of one run."""
    (first, one), *others = known.items()
    for part, claim in known.items():
        if claim.arguments.get("shard") is None:
            raise UsageError(f"{part} is no shard of a run; --merge joins those of --shard")
    counts = {part: _number_of(part, claim)[1] for part, claim in known.items()}
    for part, claim in others:
        every = dict.fromkeys((*one.arguments, *claim.arguments))
        former, now = (
            dataclasses.replace(each, arguments={**every, **each.arguments, "shard": count})
            for each, count in ((one, counts[first]), (claim, counts[part]))
        )
        differs = claims.differing(former, now, first, part)
        if differs:
            told = claims.changes(differs, one.arguments, claim.arguments, " and ")
            raise UsageError(f"{first} and {part} are not of one run ({told})")


def _without_shard(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without those that only a part of a run has."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        name, separator, _ = word.partition("=")
        if name in ("--shard", "--out"):
            if not separator:
                next(rest, None)
        elif name != "--resume":
            kept.append(word)
    return kept
