"""Gets the evaluation of every run on the same images and masks: reads those on disk, and makes the others."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from losses import InvalidSetting
from recon.evaluation.evaluator import load_suite
from recon.evaluation.protocol import Protocol, dataset_of, protocol_of
from recon.evaluation.results import Evaluation, read, write
from recon.evaluation.rows import honest
from recon.loaded_run import LoadedRun, open_run
from recon.study_config import CompareSettings
from recon.training.device import is_out_of_memory

# Settings that do not change the numbers of an evaluation, but see `usable`.
IRRELEVANT = {"device", "batch", "run", "runs", "out", "again", "data", "target"}


@dataclass
class Candidate:
    """A run that is compared, or a checkpoint of another code.

    `folder` is what the user typed, `run` its model, `found` its evaluation, and `reason` why it has none.
    """

    folder: Path
    run: LoadedRun | None = None
    found: Evaluation | None = None
    reason: str | None = None


def gather(folders: list[Path], settings: CompareSettings, evaluated: Callable[..., Evaluation]) -> list[Candidate]:
    """Every run with its evaluation, all on the same images and masks.

    A run that cannot be read or evaluated has a reason instead, and the others are compared without it. A checkpoint
    of another code is evaluated on the data of the first run, unless the settings name other data.

    Args:
        evaluated: makes an evaluation, as `evaluate`.

    Raises:
        InvalidSetting: runs that no evaluation can bring together, or not one that can be read.
    """
    candidates = [_opened(folder, settings.target) for folder in folders]
    readable = [c for c in candidates if c.reason is None]
    if not readable:
        raise InvalidSetting("; ".join(c.reason for c in candidates))
    if settings.render and not any(c.run.model.head.renderings for c in readable):
        raise InvalidSetting(f"render={settings.render}: every run has one answer to each image; leave render out")
    give_data(readable)
    refuse_other_protocols([(c.folder, _protocol(c.run, settings)) for c in readable])
    suite = load_suite(settings)
    last: Evaluation | None = None
    for candidate in readable:
        run = candidate.run
        if not settings.again:
            candidate.found = usable(run, settings, suite.provenance)
        if candidate.found is None:
            try:
                candidate.found = last = evaluated(run, settings, suite, last)
                run.make_folder()
                write(run.folder, last)
            except (InvalidSetting, OSError, RuntimeError) as error:
                said = "out of memory; lower batch" if is_out_of_memory(error) else " ".join(str(error).split())
                candidate.reason = f"{candidate.folder}: {said}"
        run.model.cpu()
    refuse_other_images(candidates)
    return candidates


def give_data(candidates: list[Candidate]) -> None:
    """Gives a checkpoint of another code, which names no dataset, that of the first run that has one."""
    own = next((c.run.settings.data for c in candidates if c.run.settings.data.name), None)
    for candidate in candidates:
        settings = candidate.run.settings
        if own is not None and settings.data.name is None:
            data = replace(settings.data, name=own.name, root=own.root)
            candidate.run = replace(candidate.run, settings=replace(settings, data=data))


def refuse_other_protocols(protocols: list[tuple[Path, Protocol]]) -> None:
    """Raises InvalidSetting where a run was trained for other data, sizes or masks than the first."""
    first, wanted = protocols[0]
    for folder, protocol in protocols[1:]:
        if differing := wanted.differing(protocol):
            said = ", ".join(f"{key} {theirs} (not {mine})" for key, (mine, theirs) in differing.items())
            raise InvalidSetting(f"{folder} cannot be compared with {first}: it has {said}; leave it out")


def refuse_other_images(candidates: list[Candidate]) -> None:
    """Raises InvalidSetting where evaluations under the same settings have other images or masks."""
    found = [c for c in candidates if c.found is not None]
    if not found:
        raise InvalidSetting("no run could be evaluated: " + "; ".join(c.reason for c in candidates))
    first = found[0]
    for candidate in found[1:]:
        if candidate.found.digest != first.found.digest:
            raise InvalidSetting(
                f"{candidate.folder} and {first.folder} were evaluated on other images or masks; if "
                "their data is the same, evaluate them anew: again=true data.root=PATH"
            )


def usable(run: LoadedRun, settings: CompareSettings, weights: dict[str, dict[str, str]]) -> Evaluation | None:
    """The evaluation in the run's folder, if it is of this model, these settings and these networks' `weights`."""
    found = read(run.folder)
    if found is None or found.model["sha256"] != run.sha256 or found.weights != weights:
        return None
    then, now = found.measuring, asdict(settings)
    if settings.data.root is not None and then["data"].get("root") != settings.data.root:
        return None
    if found.protocol.data != dataset_of(run.settings, settings):
        return None
    if any(row.key == "run" for row in found.rows) != honest(run.model):  # another target was given then
        return None
    free = IRRELEVANT if run.model.head.renderings else IRRELEVANT | {"render", "draws"}
    return found if all(then.get(key) == now[key] for key in now if key not in free) else None


def _opened(folder: Path, target: str | None) -> Candidate:
    """Opens a run; `target` is for checkpoints that do not say theirs."""
    try:
        run = open_run(folder)
        origin = run.origin
        if target is not None and origin is not None and origin.has_decoder and origin.target is None:
            run = open_run(folder, target)
        return Candidate(folder, run=run, reason=run.undrawable)
    except InvalidSetting as error:
        return Candidate(folder, reason=str(error))


def _protocol(run: LoadedRun, settings: CompareSettings) -> Protocol:
    return protocol_of(run.settings, run.model.patch_size, settings)
