"""What tuning may try: the ranges that families declare, and the suite's tuning block."""

import re

import pytest

from bench.errors import InputError
from bench.registry import GENERATORS
from bench.search import COSTS, space, tunable_names
from bench.suite import json_schema, load_suite, resolve

TRAINABLE = [name for name in GENERATORS.names() if GENERATORS.get(name).family != "control"]
RATES = re.compile("learning_rate$")

SUITE = """
name: tiny
data: {source: scanner_phantom, image_size: [32, 32], subjects: 20}
generators:
  - vae
  - {name: dcgan, tune: [learning_rate]}
  - {name: cvae, tune: false}
  - gaussian
budget: {images_seen: 1000}
tuning: {trials: 4}
"""


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "suite.yaml"
        path.write_text(text)
        return resolve(load_suite(path, overrides), path)

    return read


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_family_declares_sensible_ranges(name):
    family = GENERATORS.get(name)
    default = family.Hyperparameters()
    values = default.model_dump()
    found = space(family, values)
    assert len(found) >= 2
    assert any(RATES.search(key) for key in found), "a learning rate at least"
    if "beta" in values and name != "hvae":  # whose bound has no weight
        assert "beta" in found
    for key in tunable_names(family):
        tune = family.Hyperparameters.model_fields[key].json_schema_extra["tune"]
        own = {**values, **tune["when"]}
        (within,) = (span for other, span in space(family, own, [key]).items() if other == key)
        assert within.low < within.high
        assert within.low <= within.default <= within.high
        assert within.low == tune["low"], "the default doesn't widen it"
        assert within.high == tune["high"], "the default doesn't widen it"
        assert within.high / max(within.low, 1e-9) <= 10 or within.log or within.low == 0, "wide ranges are logarithmic"
        for value in (within.low, within.high):
            given = int(value) if within.integer else value
            assert family.Hyperparameters.model_validate({**own, key: given})
        if within.integer:
            assert float(within.low).is_integer()
            assert float(within.high).is_integer()
        if RATES.search(key):
            assert within.log
            assert within.low >= 1e-6
            assert within.high <= 1e-2


def test_controls_have_nothing_to_tune():
    for name in set(GENERATORS.names()) - set(TRAINABLE):
        assert not tunable_names(GENERATORS.get(name)), name


def test_space_heeds_values_and_names():
    vae, ddim = GENERATORS.get("vae"), GENERATORS.get("ddim")
    values = vae.Hyperparameters(beta=50.0).model_dump()
    assert space(vae, values)["beta"].high == 50.0, "the row's own value is within"
    assert list(space(vae, values, ["beta", "penalty"])) == ["beta"]
    assert "beta" not in space(vae, vae.Hyperparameters(beta=0.0).model_dump()), "nothing has no logarithm"
    assert "guidance" not in space(ddim, ddim.Hyperparameters().model_dump())
    assert "guidance" in space(ddim, ddim.Hyperparameters(conditional=True).model_dump())
    alone = ddim.Hyperparameters(conditional=True, label_dropout=0.0).model_dump()
    assert "guidance" not in space(ddim, alone), "which needs hidden labels"


def test_tuning_block_is_read(read):
    suite = read(SUITE)
    assert suite.tuning.trials == 4
    assert suite.tuning.objective == ("frechet_distance",)
    assert suite.tuning.prunes
    assert [spec.tune for spec in suite.generators] == [True, ("learning_rate",), False, True]
    several = read(SUITE, "tuning.objective=[kernel_distance, parameters]")
    assert several.tuning.objective == ("kernel_distance", "parameters")
    assert not several.tuning.prunes
    assert read(SUITE.replace("tuning: {trials: 4}", "")).tuning is None
    assert "tuning" in json_schema()["properties"]
    assert set(COSTS) < set(json_schema()["$defs"]["TuningSpec"]["properties"]["objective"]["items"]["enum"])


def test_defaults_stand_beside_tuned_rows(read):
    suite = read(SUITE, "tuning.compare_default=true")
    rows = [(spec.row, spec.default_of, spec.tune) for spec in suite.generators]
    assert ("vae_default", "vae", False) in rows
    assert ("dcgan_default", "dcgan", False) in rows
    assert [row for row, *_ in rows] == ["vae", "vae_default", "dcgan", "dcgan_default", "cvae", "gaussian"]
    assert resolve(suite) == suite, "twice is once"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("tuning.trials=0", ["tuning.trials", "greater than or equal to 1"]),
        ("tuning.trails=3", ["unknown key 'trails'", "did you mean 'trials'"]),
        ("tuning.features=random", [":10: tuning.features", "'random' features also rank", "allow_same_features"]),
        ("tuning.features=domain", ["domain features are fitted for ranking"]),
        ("tuning.features=radiomcs", ["did you mean 'radiomics'"]),
        ("tuning.objective=parameters", ["the first objective decides", "parameters may follow"]),
        ("tuning.objective=[frechet_distance, frechet_distance]", ["twice"]),
        ("tuning.objective=fid", ["tuning.objective", "frechet_distance"]),
        ("tuning={objective: [frechet_distance, parameters], pruning: true}", ["pruning goes by one objective"]),
        ("tuning.storage=postgresql://me:secret@host/db", ["leave the password out", "PGPASSWORD"]),
        ("tuning.storage=optuna.db", ["a URL such as", "'optuna.db'"]),
        ("tuning.parameters=[bteta]", ["no generator here has a tuning range for 'bteta'", "did you mean 'beta'"]),
        ("generators.1.tune=[beta]", [":6: generators.1.tune: dcgan has no tuning range for 'beta'"]),
        ("budget.epochs=3", ["tuning: images_seen is missing"]),
    ],
)
def test_wrong_tuning_blocks_are_told(read, change, expected):
    with pytest.raises(InputError) as told:
        read(SUITE, change)
    for part in expected:
        assert part in str(told.value), str(told.value)
    assert "secret" not in str(told.value)


def test_same_features_only_when_asked(read):
    assert read(SUITE, "tuning.features=random", "tuning.allow_same_features=true").tuning.features == "random"
