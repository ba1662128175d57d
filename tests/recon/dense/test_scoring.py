"""Scores against torchmetrics and faster-coco-eval's own COCO, and what a perfect and a poor prediction get."""

import contextlib
import io

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from losses import InvalidSetting
from recon.dense.leaves import LeafScenes
from recon.dense.scenes import IGNORED, Instances
from recon.dense.scoring import InstanceScorer, class_map_scores, confusion, mean_iou, parts, pixel_accuracy
from recon.probing.accuracy import measure

CLASSES = 4


@pytest.fixture(scope="module")
def truths() -> list[Instances]:
    scenes = LeafScenes("val")
    return [scenes.read(i).instances for i in range(12)]


def perfect(truth: Instances) -> dict[str, torch.Tensor]:
    judged = ~truth.crowd
    found = {"boxes": truth.boxes[judged], "labels": truth.labels[judged], "masks": truth.masks[judged]}
    return found | {"scores": torch.linspace(1, 0.5, int(judged.sum()))}


def shifted(truth: Instances, pixels: int, seed: int) -> dict[str, torch.Tensor]:
    """The truth moved to the right with noise, and a third of its labels drawn anew."""
    found, generator = perfect(truth), torch.Generator().manual_seed(seed)
    n = len(found["labels"])
    labels = torch.where(
        torch.rand(n, generator=generator) < 0.3, torch.randint(3, (n,), generator=generator), found["labels"]
    )
    boxes = found["boxes"] + torch.tensor([pixels, 0.0, pixels, 0.0]) + torch.rand(n, 4, generator=generator)
    masks = found["masks"].roll(pixels, 2) & (torch.rand(n, 96, 96, generator=generator) < 0.93)
    scores = torch.rand(n, generator=generator)
    return {"boxes": boxes, "labels": labels, "masks": masks, "scores": scores}


def scored(predictions, truths):
    scorer = InstanceScorer()
    for prediction, truth in zip(predictions, truths, strict=True):
        scorer.update(prediction, truth)
    return scorer.scores()


def random_maps(n: int = 6):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(CLASSES, (n, 20, 30), generator=generator, dtype=torch.uint8)
    predicted = torch.where(torch.rand(n, 20, 30, generator=generator) < 0.6, truth.long(), 1)
    truth[:, :3] = IGNORED
    return predicted, truth


def test_class_map_scores_are_torchmetrics():
    predicted, truth = random_maps()
    counts = torch.stack([confusion(p, t, CLASSES) for p, t in zip(predicted, truth, strict=True)])
    iou = MulticlassJaccardIndex(CLASSES, ignore_index=IGNORED)(predicted, truth.long())
    share = MulticlassAccuracy(CLASSES, average="micro", ignore_index=IGNORED)(predicted, truth.long())
    assert float(mean_iou(counts.sum(0))) == pytest.approx(float(iou), rel=1e-6)
    assert float(pixel_accuracy(counts.sum(0))) == pytest.approx(float(share), rel=1e-6)
    found = class_map_scores(counts)
    assert float(found["miou"].mean()) == pytest.approx(float(iou), rel=1e-6)
    assert found["pixel_accuracy"].shape == (len(counts),)


def test_a_class_that_nobody_sees_changes_nothing():
    predicted, truth = random_maps()
    few, more = (confusion(predicted[0], truth[0], c) for c in (CLASSES, CLASSES + 3))
    assert torch.equal(mean_iou(few), mean_iou(more))


def test_a_perfect_prediction_has_every_score_one(truths):
    assert {name: float(part.mean()) for name, part in scored(map(perfect, truths), truths).items()} == pytest.approx(
        dict.fromkeys(("box_ap", "box_ap50", "mask_ap", "mask_ap50"), 1.0)
    )
    _, truth = random_maps()
    counts = torch.stack([confusion(t.where(t != IGNORED, 0), t, CLASSES) for t in truth])
    assert all(torch.equal(part, torch.ones(len(truth)).double()) for part in class_map_scores(counts).values())


def test_what_is_crowd_is_neither_right_nor_wrong(truths):
    """Predictions of the crowd change nothing, and those of nothing are wrong."""
    both = []
    for truth in truths:
        found = perfect(truth)
        crowd = {
            "boxes": truth.boxes,
            "labels": truth.labels,
            "masks": truth.masks,
            "scores": torch.ones(len(truth.labels)),
        }
        both.append({k: torch.cat([found[k], crowd[k][truth.crowd]]) for k in found})
    assert float(scored(both, truths)["mask_ap"].mean()) == pytest.approx(1)
    assert float(scored([shifted(t, 40, 0) for t in truths], truths)["mask_ap"].mean()) < 0.1


def test_average_precision_is_faster_coco_evals(truths):
    """Whose COCO reads annotations as files hold them; torchmetrics is not asked."""
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval.core import mask as rle

    predictions = [shifted(truth, 1, seed) for seed, truth in enumerate(truths)]

    def encoded(masks):
        return [rle.encode(m.numpy().astype("uint8", order="F")) for m in masks]

    def xywh(boxes):
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    annotations, found = [], []
    for i, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        of_image = zip(
            xywh(truth.boxes), encoded(truth.masks), truth.labels.tolist(), truth.crowd.tolist(), strict=True
        )
        annotations += [
            {"image_id": i, "category_id": label, "bbox": box, "area": float(rle.area(mask)), "segmentation": mask}
            | {"iscrowd": int(crowd)}
            for box, mask, label, crowd in of_image
        ]
        of_image = zip(
            xywh(prediction["boxes"]), encoded(prediction["masks"]), prediction["labels"].tolist(),
            prediction["scores"].tolist(), strict=True,
        )  # fmt: skip
        found += [
            {"image_id": i, "category_id": label, "bbox": box, "segmentation": mask, "score": score}
            for box, mask, label, score in of_image
        ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    images = [{"id": i, "height": 96, "width": 96} for i in range(len(truths))]
    categories = [{"id": c, "name": str(c)} for c in range(3)]
    ours = scored(predictions, truths)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({"images": images, "annotations": annotations, "categories": categories})
        for kind, score in (("bbox", "box_ap"), ("segm", "mask_ap")):
            evaluation = COCOeval_faster(truth, truth.loadRes([dict(f) for f in found]), kind)
            # torchmetrics has these in single precision, and recalls equal some of them
            evaluation.params.recThrs = torch.linspace(0, 1, 101).numpy().astype(float)
            evaluation.params.iouThrs = torch.linspace(0.5, 0.95, 10).numpy().astype(float)
            evaluation.run()
            assert float(ours[score].mean()) == pytest.approx(float(evaluation.stats[0]), abs=1e-6)
            assert 0.1 < float(ours[score].mean()) < 0.95


def test_parts_are_the_jackknife():
    """Of a mean, each item adds itself: so the interval is the mean's."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    without = (values.sum() - values) / (len(values) - 1)
    found = parts(values.mean(), without)
    assert torch.allclose(found, values)
    assert measure(found[None]).low == pytest.approx(measure(values[None]).low)


@pytest.mark.slow
def test_the_interval_of_average_precision_covers_other_images():
    """Over halves of 100 scenes: their distance is within two standard errors of the difference."""
    scenes = LeafScenes("val")
    truths = [scenes.read(i).instances for i in range(100)]
    predictions = [shifted(truth, 1, seed) for seed, truth in enumerate(truths)]
    halves = [measure(scored(predictions[i::2], truths[i::2])["box_ap"][None]) for i in range(2)]
    error = sum(half.standard_error**2 for half in halves) ** 0.5
    assert 0 < error < 0.07 and abs(halves[0].mean - halves[1].mean) < 3 * error


def test_nothing_to_find_is_one_line(truths):
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 96, 96).bool(), torch.zeros(0).bool())
    with pytest.raises(InvalidSetting, match="cannot be scored"):
        scored([perfect(nothing)] * 3, [nothing] * 3)
