"""What the soak starts, and that its verdict can be bad. The soak itself takes minutes: `make soak`."""

from tests.soak.sagas import SAFETIES, SHAPES, STEPS, draw
from tests.soak.verdict import wrong_effects


def test_a_seed_gives_the_same_sagas_and_a_longer_run_begins_with_those_of_a_shorter_one():
    assert draw(50, seed=7)[:20] == draw(20, seed=7)
    assert draw(20, seed=7) != draw(20, seed=8)


def test_every_step_is_drawn_with_every_declaration_and_in_every_shape():
    drawn = draw(200, seed=1)
    found = {(saga.shape, step, safety) for saga in drawn for step, safety in zip(STEPS, saga.safeties, strict=True)}
    assert found == {(shape, step, safety) for shape in SHAPES for step in STEPS for safety in SAFETIES}


def test_effects_that_are_there_once_are_right():
    sagas = draw(3, seed=1)
    assert not wrong_effects(sagas, [effect for saga in sagas for effect in saga.effects])


def test_an_effect_that_is_missing_doubled_or_strange_is_told():
    sagas = draw(2, seed=1)
    effects = [effect for saga in sagas for effect in saga.effects]
    effects.remove(("saga-00001", "mails"))
    effects += [("saga-00002", "charges"), ("saga-00003", "checks")]
    assert wrong_effects(sagas, effects) == [
        "saga-00001: 0 mails instead of 1",
        "saga-00002: 2 charges instead of 1",
        "saga-00003: 1 checks instead of 0",
    ]
