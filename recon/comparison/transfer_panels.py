"""Pictures of transfers for the comparison's page: held-out images, the truth, and what each encoder's heads found."""

from collections.abc import Mapping
from dataclasses import replace

from recon.comparison.transferred import HEADS, encoders_of, of_same_scenes
from recon.dense.transfer_pictures import IMAGE, TRUTH, Pictures, key_of, row_of, stacked
from recon.dense.transfer_results import TransferRecord
from recon.report.pictures import Panel, PanelSet
from recon.result_table import RowInfo

ABOUT = {  # how it is drawn, and what is not judged
    "detection": (
        "The most confident detections are drawn, as many as there are objects: mask and box have their class's colour",
        "Of the truth, the objects that are judged are drawn.",
    ),
    "segmentation": (
        "Over the image in grey, every pixel has the colour of its class",
        "In the truth, pixels that are not judged are grey.",
    ),
}


def transfer_panels(
    rows: list[RowInfo], records: dict[str, TransferRecord], pictures: Mapping[str, Pictures]
) -> PanelSet | None:
    """What the page shows of transfers to a task; None where nothing has been drawn.

    Runs that were transferred to other scenes than the first one, or at another size, have no panel, as they have no
    number in the table. Each head has a panel of every encoder.

    Args:
        rows: of the comparison, untrained encoders among them.
        records: key of a run's row -> its transfers to the task.
        pictures: key of a run's row -> what was drawn of them.
    """
    drawn = {key: record for key, record in of_same_scenes(records).items() if key in pictures and pictures[key].rows}
    if not drawn:
        return None
    first, record = next(iter(drawn.items()))
    panels = [Panel(None, "image", "the held-out image", None)]
    panels += [Panel(row.key, "truth", "the truth", None) for row in rows if row.kind == "truth"]
    images = [pictures[first].rows[name] for name in (IMAGE, TRUTH)]
    encoders = encoders_of(drawn)
    for head, variant in dict.fromkeys(way for each in drawn.values() for way in each.ways()):
        how = ", ".join(filter(None, (HEADS[head], variant)))
        for row in (row for row in rows if row.key in encoders):
            at = [(pictures[run].rows, row_of(encoder, head, variant)) for run, encoder in encoders[row.key]]
            if found := next((of[name] for of, name in at if name in of), None):
                panels.append(Panel(row.key, f"{row.label}, {how}", row.label, None, how))
                images.append(found)
    held_out, *shown = stacked(images)
    return PanelSet(
        f"transfer-{record.task}",
        f"Transfer to {record.task}",
        about(record, len(held_out)),
        [f"{record.data.name}, {i + 1}" for i in range(len(held_out))],
        held_out,
        [panels[0], *(replace(panel, images=of) for panel, of in zip(panels[1:], shown, strict=True))],
    )


def about(record: TransferRecord, count: int) -> str:
    """What the pictures show, and what their colours stand for."""
    how, judged = ABOUT[record.task]
    which = f"the first {count} of {record.data.test:,}" if count < record.data.test else f"the {count}"
    return (
        f"What the heads of each encoder, trained with one seed, find in {which} held-out images of "
        f"{record.data.name}. {how} ({key_of(record.data.classes)}). {judged}"
    )
