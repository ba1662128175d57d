"""An objective's critics: what each is shown and how often, when it learns, and what is saved of it."""

import pytest
import torch

from tests.losses.scenes import equal, objective_of, scene, with_gradient


def images_seen_by(module, seen):
    return module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))


@pytest.mark.parametrize("expression", ["mse + perceptual", "10%perceptual + mse"])
def test_the_frozen_critic_runs_once_for_the_prediction_and_once_for_the_truth(expression):
    """Seen from its first layer, which nothing can skip; a second run of either would be a second backward's price."""
    objective, r, calls = objective_of(expression), with_gradient(scene()), []
    objective.terms["perceptual"].net.features[0].register_forward_hook(lambda *_: calls.append(1))
    result = objective(r)
    r.prediction.backward(result.gradient)
    assert len(calls) == 2


@pytest.mark.parametrize(("game", "calls"), [("hinge", 1), ("nonsaturating", 1), ("relativistic", 2)])
def test_the_discriminator_judges_for_the_model_and_learns_once(game, calls):
    """For the model: the composite, and the truth where the game compares. To learn: both in one pass."""
    objective = objective_of("mse + adversarial", adversarial={"width": 8, "game": game})
    r, seen = with_gradient(scene()), []
    images_seen_by(objective.terms["adversarial"].discriminator, seen)
    r.prediction.backward(objective(r).gradient)
    stride = objective.terms["adversarial"].discriminator.stride
    true, fake = (r.shifted(image, stride).detach() * 2 - 1 for image in (r.image, r.composite))
    assert equal([images[:, :3] for images in seen], [*[fake, true][:calls], torch.cat([true, fake])])


def test_all_terms_see_one_shift():
    r, shifts = scene(), []
    objective = objective_of("mse + perceptual + adversarial")
    for term in objective.terms.values():

        def watched(seen, value=term.value):
            shifts.append(seen.shift)
            return value(seen)

        term.value = watched
    objective(r)
    assert shifts == [r.shift] * 3


def test_update_lets_every_critic_take_one_step():
    objective, r = objective_of("mse + adversarial"), scene()
    discriminator = objective.terms["adversarial"].discriminator
    before = [p.detach().clone() for p in discriminator.parameters()]
    objective(r)
    assert all(torch.equal(a, b) for a, b in zip(discriminator.parameters(), before, strict=True))
    objective.update(0)
    assert not any(torch.equal(a, b) for a, b in zip(discriminator.parameters(), before, strict=True))


def test_the_critic_learns_while_its_term_is_not_yet_on():
    objective = objective_of("mse + adversarial", steps=100)
    before = objective.terms["adversarial"].discriminator.layers[0].weight.detach().clone()
    result = objective(scene(), 0)
    objective.update(0)
    assert float(result.terms["adversarial"].weight) == 0
    assert not torch.equal(objective.terms["adversarial"].discriminator.layers[0].weight, before)


def test_an_objective_that_judges_all_patches_shows_its_critic_the_whole_prediction():
    objective, r, seen = objective_of("mse + adversarial", over="all"), scene(), []
    term = objective.terms["adversarial"]
    images_seen_by(term.discriminator, seen)
    objective(r)
    whole = r.shifted(r.predicted_image, term.discriminator.stride) * 2 - 1
    judged, learnt = seen
    assert torch.equal(judged[:, :3], whole) and torch.equal(learnt[len(whole) :, :3], whole)


def test_state_and_load_state_go_on_bit_for_bit():
    def play(objective, steps):
        results = []
        for step in steps:
            results.append(objective(scene(seed=step, shift=(0.5, 0.5)), step).gradient)
            objective.update(step)
        return results

    expression = "mse + 10%adversarial + perceptual"
    whole, first, second = objective_of(expression), objective_of(expression), objective_of(expression, seed=1)
    expected = play(whole, range(4))
    play(first, range(2))
    assert set(first.state()) == {"adversarial"}
    second.load_state(first.state())
    assert all(torch.equal(a, b) for a, b in zip(play(second, range(2, 4)), expected[2:], strict=True))


def test_provenance_is_that_of_pretrained_weights():
    assert objective_of("mse + adversarial").provenance() == {}
    assert objective_of("mse + perceptual").provenance()["perceptual"]["source"] == "random"
