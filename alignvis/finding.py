"""Which tables are there for what was asked: recordings by subject, embeddings that fit, who learns from whom."""

from collections.abc import Mapping, Sequence, Set
from glob import escape
from pathlib import Path
from typing import Any

from alignvis import store
from alignvis.errors import AlignvisError
from alignvis.store import Responses


def find_responses(root: Path, subject: int, dataset: str | None = None) -> list[Path]:
    """Find a subject's responses tables, of one dataset or of all.

    Raises:
        AlignvisError: when there is none; the sentence names the command that makes one.
    """
    if dataset is not None and Path(dataset).name != dataset:
        raise AlignvisError(
            f"--dataset {dataset!r} is not the name of a folder in {root / 'responses'}; name one without a path"
        )
    found = sorted((root / "responses").glob(f"{escape(dataset) if dataset else '*'}/sub-{subject:02d}.safetensors"))
    if not found:
        raise AlignvisError(
            f"there are no responses of subject {subject} in {root / 'responses' / (dataset or '')}; "
            f"make them with: alignvis prepare {_maker(dataset)} --raw ... --subject {subject}"
        )
    return found


def _maker(dataset: str | None) -> str:
    """Which `prepare` makes the tables of a dataset; what is none of the public ones is somebody's own."""
    name = (dataset or "things-eeg2").removesuffix("-simulated")
    return name if name in ("things-eeg2", "things-meg", "nsd") else f"mne --dataset {name}"


def find_features(
    root: Path, responses: Responses, wanted: Sequence[str] = (), target: str = "embeddings"
) -> list[Path]:
    """Find the features tables that have every image of a recording, by image id.

    Args:
        wanted: image encoders; none means every table that fits and holds the target.
        target: what of the tables is to be learned.

    Raises:
        AlignvisError: when a wanted encoder has no table that fits, or nothing fits.
    """
    tables = {
        path: store.read_document(path, "features") for path in sorted((root / "features").glob("*/*.safetensors"))
    }
    shown = {*responses.train_images, *responses.test_images}
    fitting = [path for path, document in tables.items() if fit(responses.document, shown, document)]
    apart = [path for path, document in tables.items() if path not in fitting and shown <= set(document["images"])]
    if apart and not [path for path in fitting if not wanted or tables[path]["encoder"] in wanted]:
        drawn, real = (responses.path, apart[0])[:: 1 if responses.document.get("simulated") else -1]
        raise AlignvisError(
            f"{drawn} is simulated and {real} is not, though their images are called the same; extract features of the "
            "images that were shown"
        )
    for encoder in wanted:
        if encoder not in [tables[path]["encoder"] for path in fitting]:
            named = [path for path in tables if tables[path]["encoder"] == encoder]
            if named:  # it is there but does not fit: this says why
                store.rows(
                    store.load_features(named[0]), [*responses.train_images, *responses.test_images], responses.path
                )
            there = sorted({document["encoder"] for document in tables.values()})
            raise AlignvisError(
                f"there are no features of {encoder!r} in {root / 'features'} "
                f"(there are: {', '.join(there) or 'none'}); make them with: alignvis extract --encoder {encoder}"
            )
    if not fitting:
        if tables:
            store.rows(
                store.load_features(next(iter(tables))),
                [*responses.train_images, *responses.test_images],
                responses.path,
            )
        raise AlignvisError(f"there are no features in {root / 'features'}; make them with: alignvis extract")
    if wanted:
        return [path for path in fitting if tables[path]["encoder"] in wanted]
    return holding(fitting, target)


def fit(responses: Mapping[str, Any], shown: Set[str], features: Mapping[str, Any]) -> bool:
    """Whether features are of the images of a recording, by what the headers say.

    Drawn pictures and real ones may be called the same (those of NSD are numbered), and never stand for each other.
    """
    simulated = {document.get("simulated") for document in (responses, features)}
    return shown <= set(features.get("images", ())) and simulated != {True, False}


def images_of(path: Path) -> list[str]:
    """The images that a responses table names, training and test alike."""
    document = store.read_document(path, "responses")
    return [*document["train_images"], *document["test_images"]]


def holding(tables: Sequence[Path], target: str) -> list[Path]:
    """Those features tables that hold a tensor; if none does, the first, whose error says what it holds."""
    found = [path for path in tables if target in store.vectors(store.read_table(path, "features", {})[1])]
    return found or list(tables[:1])


def who_learns_from_whom(
    root: Path, subjects: Sequence[int], dataset: str | None, leave_out: bool
) -> list[tuple[int, dict[int, Path], Path]]:
    """Who is asked about, the tables of those who are trained on, by subject, and the table that is asked."""
    if not leave_out:
        found = [(subject, path) for subject in subjects for path in find_responses(root, subject, dataset)]
        return [(subject, {subject: _own(path, subject)}, path) for subject, path in found]
    if len(subjects) < 2:
        raise AlignvisError("--leave-out trains on all subjects given but one; give at least two, like --subject 1-10")
    groups = []
    paths = {subject: find_responses(root, subject, dataset) for subject in subjects}
    for folder in sorted({path.parent for found in paths.values() for path in found}):
        here = {subject: path for subject, found in paths.items() for path in found if path.parent == folder}
        if len(here) > 1:
            here = {subject: _own(path, subject) for subject, path in here.items()}
            for subject, path in here.items():
                groups.append((subject, {other: here[other] for other in here if other != subject}, path))
    if not groups:
        raise AlignvisError(
            f"--leave-out needs two subjects of one dataset, and subjects {', '.join(map(str, subjects))} have none in "
            "common; prepare more of them"
        )
    return groups


def _own(path: Path, subject: int) -> Path:
    """A table is what its name says."""
    stated = store.read_document(path, "responses").get("subject")
    if stated != subject:
        raise AlignvisError(f"{path} holds subject {stated}; give the file its own name back")
    return path
