"""The evaluate mode: every row in full, what goes on, what is refused before the first image."""

import json
import pickle
import shutil

import numpy as np
import pytest
from tiny_configs.configs import write_untrained
from tiny_configs.evaluations import classifier, evaluation
from tiny_configs.own_parts import registered

from guidestar import evaluation as metrics
from guidestar import input_pipeline
from guidestar.commands import evaluate, statistics
from guidestar.commands.config import overrides
from guidestar.commands.measuring import evaluation as measuring
from guidestar.configs import evidence
from guidestar.core.errors import UserError
from guidestar.evaluation.extractors import make_extractor
from guidestar.evaluation.statistics import RealStatistics, find_statistics
from guidestar.inference import shared
from guidestar.runtime import memory
from guidestar.runtime.store import Store

ROWS = "unguided,cfg_3,unconditional"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Three rows on tiny networks, and statistics of the digits for them."""
    folder = tmp_path_factory.mktemp("weights")
    config = evaluation(lambda: evidence.get_config(ROWS), folder)
    statistics.run(config, folder)
    config.evaluation.statistics = str(folder / "real")
    return config


@pytest.fixture(scope="module")
def measured(config, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    evaluate.run(config, work)
    return work


def changed(config, **fields):
    other = config.copy_and_resolve_references()
    other.evaluation.update(fields)
    return other


def evidence_in(work):
    return json.loads((work / "evidence.json").read_text())


def test_every_row_is_measured_with_its_cost(measured):
    found = evidence_in(measured)
    assert found["images"] == 12 and found["real"]["images"] == 1442
    assert list(found["rows"]) == ROWS.split(",")
    for name, row in found["rows"].items():
        assert row["frechet_distance"] > 0 and row["multiply_adds"] > 0
        assert all(0 <= row[name] <= 1 for name in ("precision", "recall", "white"))
        assert (row["agreement"] is None) == (name == "unconditional")
        assert row["title"] in (measured / "evidence.md").read_text()
    assert found["rows"]["cfg_3"]["evaluations"] == {"main": 6}
    assert found["rows"]["unconditional"]["sampling"] == {"classes": "none"}


def test_run_again_it_gives_the_same_and_makes_and_measures_nothing_again(
    config, measured, monkeypatch, capsys
):
    first = evidence_in(measured)
    kept = {path: path.stat().st_mtime_ns for path in measured.glob("*/images/*")}
    monkeypatch.setattr(measuring, "numbers", None)
    evaluate.run(config, measured)
    assert capsys.readouterr().out.count("(measured before)") == 3
    assert {path: path.stat().st_mtime_ns for path in measured.glob("*/images/*")} == kept
    assert evidence_in(measured) == first | {"date": evidence_in(measured)["date"]}


def test_each_row_is_written_as_it_is_measured_and_an_interrupted_run_goes_on(
    config, measured, tmp_path, monkeypatch
):
    work, asked = tmp_path / "work", []
    shutil.copytree(measured, work)
    (work / "evidence.json").unlink()
    original = measuring.numbers

    def counted(*given, limit=2):
        asked.append(given)
        if len(asked) == limit:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(measuring, "numbers", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(config, work)
    (there,) = evidence_in(work)["rows"]
    assert evidence_in(work)["left"] == [name for name in ROWS.split(",") if name != there]
    assert "Not measured yet: " in (work / "evidence.md").read_text()
    evaluate.run(config, work)
    assert len(asked) == 4 and evidence_in(work)["rows"] == evidence_in(measured)["rows"]
    assert "left" not in evidence_in(work)
    assert "Not measured yet" not in (work / "evidence.md").read_text()
    # What is measured in another way, or by other code, is measured anew.
    evaluate.run(changed(config, metrics=("contrast",)), work)
    assert len(asked) == 7
    record = evidence_in(work)
    record["measured_by"]["code"] = "another"
    (work / "evidence.json").write_text(json.dumps(record))
    evaluate.run(changed(config, metrics=("contrast",)), work)
    assert len(asked) == 10


@pytest.mark.longer
def test_the_real_set_is_closest_to_itself(config):
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    extractor = make_extractor(config.evaluation.classifier)
    source = input_pipeline.load_source("digits")
    chosen = metrics.choose(measuring.METRICS)
    noise = np.random.default_rng(0).integers(0, 256, source.x.shape, np.uint8)
    same, other = (
        measuring.numbers(chosen, extractor, real, [(images, source.condition)])
        for images in (source.x, noise)
    )
    assert same["frechet_distance"] < 1e-3 * other["frechet_distance"]
    assert same["recall"] == same["precision"] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(statistics="nowhere"), "evaluation.statistics 'nowhere'.*--mode=statistics"),
        (dict(statistics="fashion_mnist_statistics"), "evaluation.statistics are in the features"),
        (dict(classifier="fashion_mnist_classifier"), "8x8x1, and classifier takes 28x28x1"),
        (dict(count=3), "count is 3, and precision_recall needs 6"),
        (dict(metrics=("contrsat",)), "did you mean contrast"),
        (dict(extractor=dict(name="incepti")), "evaluation.extractor.name 'incepti'"),
        (dict(repeats=0), "evaluation.repeats is 0: give a whole number"),
        (dict(resample=11), "evaluation.resample is 11, and .* count the 10 most probable"),
        (dict(statistics_key="fid"), "holds one set of moments: leave out the key 'fid'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_measured_is_refused_before_the_first_image(
    config, tmp_path, fields, message
):
    with pytest.raises(UserError, match=message):
        evaluate.run(changed(config, **fields), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.longer
def test_classes_of_another_data_set_are_no_labels(config, tmp_path):
    """Those of ImageNet, which InceptionV3 tells, have numbers of their own."""
    other = classifier(tmp_path / "other.safetensors", num_classes=12)
    evaluator = measuring.Evaluation(changed(config, classifier=other), tmp_path)
    with pytest.raises(UserError, match="rows.x: agreement compares labels of 10 .* of 12: name"):
        evaluator.planned(config, tmp_path, "rows.x")
    # Without a metric that compares them they may be any.
    wide = changed(config, classifier=other, metrics=("inception_score",))
    measuring.Evaluation(wide, tmp_path).planned(config, tmp_path, "rows.x")


@pytest.mark.longer
def test_other_metrics_are_chosen_by_name(config, measured):
    evaluate.run(changed(config, metrics=("contrast", "vendi_score")), measured)
    row = evidence_in(measured)["rows"]["cfg_3"]
    assert row["vendi_score"] >= 1 and "frechet_distance" not in row


METRIC = """
import numpy as np
from guidestar import register

@register("metric")
def own_metric(images):
    return float(np.mean(images)) * 0 + {factor}
"""


@pytest.mark.longer
def test_other_code_of_a_metric_from_outside_measures_anew_and_says_so(
    config, tmp_path, monkeypatch, capsys
):
    said = "the file that own_metric is written in was changed since evidence.json was written"
    for factor, told in ((1.0, False), (1.0, False), (2.0, True), (2.0, False)):
        text = METRIC.format(factor=factor)
        registered(monkeypatch, tmp_path, "metric", "own_metric", text)
        evaluate.run(changed(config, metrics=("own_metric",), count=2), tmp_path / "work")
        assert (said in capsys.readouterr().out) == told
        rows = evidence_in(tmp_path / "work")["rows"]
        assert {row["own_metric"] for row in rows.values()} == {factor}


@pytest.mark.longer
def test_rows_share_networks_by_their_contents(config, tmp_path, monkeypatch):
    """Each is read once, whatever it is called; those of one row at a time are held."""
    weights = config.sampling.weights
    for name in ("copy", "other"):
        shutil.copy(weights.main, tmp_path / f"{name}.safetensors")
        shutil.copy(weights.main.replace(".safetensors", ".json"), tmp_path / f"{name}.json")
    model = json.loads((tmp_path / "other.json").read_text())["model"]
    write_untrained(tmp_path / "other.safetensors", model | {"depth": 2})
    one = changed(config, count=6)
    del one.rows.unconditional
    one.rows.cfg_3.sampling = dict(weights=dict(main=str(tmp_path / "other.safetensors")))
    third = one.rows.unguided.to_dict()
    third["sampling"] = dict(weights=dict(main=str(tmp_path / "copy.safetensors")))
    one.rows.third = third
    read, held, original = [], [], shared.read_weights

    def counted(name, source, **options):
        if not options:
            read.append(source)
        return original(name, source, **options)

    ready = shared.SharedNetworks.ready

    def watched(self, job):
        result = ready(self, job)
        held.append(len(self._held))
        return result

    monkeypatch.setattr(shared, "read_weights", counted)
    monkeypatch.setattr(shared.SharedNetworks, "ready", watched)
    evaluate.run(one, tmp_path / "work")
    assert len(read) == len(set(read)) == 2 and held == [1, 1, 1]
    rows = evidence_in(tmp_path / "work")["rows"]
    assert list(rows) == list(one.rows)
    assert rows["third"]["frechet_distance"] == rows["unguided"]["frechet_distance"]
    assert rows["third"]["made_of"] == rows["unguided"]["made_of"] != rows["cfg_3"]["made_of"]


@pytest.mark.longer
def test_images_of_other_weights_are_not_gone_on_with(config, measured, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(measured, work)
    moved = tmp_path / "moved.safetensors"
    shutil.copy(config.sampling.weights.main, moved)
    shutil.copy(config.sampling.weights.main.replace("safetensors", "json"), tmp_path)
    shutil.move(tmp_path / "main.json", tmp_path / "moved.json")
    again = config.copy_and_resolve_references()
    again.sampling.weights.main = str(moved)
    evaluate.run(again, work)  # whatever they are called
    model = json.loads((tmp_path / "moved.json").read_text())["model"]
    write_untrained(moved, model | {"heads": 1})
    kept = {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    with pytest.raises(UserError, match="row '.*' were made of other weights"):
        evaluate.run(again, work)
    (work / "evidence.json").unlink()
    with pytest.raises(UserError, match="holds images made of something else.*weights"):
        evaluate.run(again, work)
    for path, contents in kept.items():
        assert path.name == "evidence.json" or path.read_bytes() == contents


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda found: {"rows": found["rows"] | {"more": found["rows"]["cfg_3"]}}, "row 'more'"),
        (lambda found: {"steps": 3}, "written by something else"),
        (lambda found: [1], "written by something else"),
    ],
)
def test_what_another_evaluation_wrote_is_not_replaced(config, measured, tmp_path, write, message):
    record = tmp_path / "evidence.json"
    record.write_text(json.dumps(write(evidence_in(measured))))
    kept = record.read_bytes()
    with pytest.raises(UserError, match=f"evidence.json.*{message}.*--workdir"):
        evaluate.run(config, tmp_path)
    assert record.read_bytes() == kept and list(tmp_path.iterdir()) == [record]


@pytest.mark.longer
def test_seconds_are_those_of_all_parts(config, measured):
    """A run that goes on counts what earlier ones took, and says nothing where that is unknown."""
    path = measured / "cfg_3" / "seconds.json"
    first = json.loads(path.read_text())
    assert first["images"] == 12 and first["seconds"] > 0
    assert evidence_in(measured)["rows"]["cfg_3"]["seconds"] == first["seconds"]
    (measured / "cfg_3" / "images" / "00000006-6.npz").unlink()
    path.write_text(json.dumps({"images": 6, "seconds": 1000.0}))
    evaluate.run(config, measured)
    assert 1000 < evidence_in(measured)["rows"]["cfg_3"]["seconds"] < 1500
    path.unlink()
    evaluate.run(config, measured)
    assert evidence_in(measured)["rows"]["cfg_3"]["seconds"] is None


@pytest.mark.longer
def test_published_moments_give_frechet_distances_and_nothing_else(config, measured):
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    path = measured / "adm.npz"
    np.savez(path, mu=real.moments.mean, sigma=real.moments.covariance)
    one = changed(config, statistics="adm.npz", metrics=("frechet_distance",))
    evaluate.run(one, measured)
    found = evidence_in(measured)["rows"]["cfg_3"]["frechet_distance"]
    # Run in a work folder of its own, a row's command finds statistics that lie in this one.
    assert (
        f"--config.evaluation.statistics={path} "
        in evidence_in(measured)["rows"]["cfg_3"]["command"]
    )
    evaluate.run(changed(config, metrics=("frechet_distance",)), measured)
    assert "evaluation.statistics" not in evidence_in(measured)["rows"]["cfg_3"]["command"]
    assert found == pytest.approx(evidence_in(measured)["rows"]["cfg_3"]["frechet_distance"])
    with pytest.raises(UserError, match="precision_recall needs real_features"):
        evaluate.run(changed(config, statistics="adm.npz"), measured)


def test_what_cannot_fit_in_memory_is_said_at_the_start(config, tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\nMemAvailable: 1 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    with pytest.raises(UserError, match=r"evaluation.count is 12.* GB are free: lower it"):
        evaluate.run(config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dict(guidance=dict(name="cfgg")), "rows.cfg_3: .*'cfgg'"),
        (dict(sampling=dict(classes="11")), "rows.cfg_3: sampling.classes"),
        (dict(sampling=dict(weights=dict(main="digitz"))), "rows.cfg_3: .*digitz"),
        (
            dict(
                guidance=dict(name="unguided"),
                sampling=dict(weights=dict(main="fractal2d_main", guide="")),
            ),
            "rows.cfg_3: .*no images",
        ),
    ],
    ids=["rule", "classes", "weights", "points"],
)
def test_a_row_that_cannot_run_is_named_before_the_first_image(config, tmp_path, row, message):
    one = config.copy_and_resolve_references()
    one.rows.cfg_3 = config.rows.cfg_3.to_dict() | row
    with pytest.raises(UserError, match=message):
        evaluate.run(one, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_are_folders_below_the_workdir_alone(config, tmp_path):
    one = config.copy_and_resolve_references()
    rows = one.rows.to_dict()
    one.rows = {"sub/outside": rows["cfg_3"]}
    with pytest.raises(UserError, match="the name of a row is 'sub/outside'"):
        evaluate.run(one, tmp_path)


@pytest.mark.longer
def test_a_config_without_rows_is_one_row_of_its_own_guidance(config, measured, tmp_path):
    one = config.copy_and_resolve_references()
    one.guidance = config.rows.cfg_3.guidance
    shutil.copytree(measured / "cfg_3", tmp_path / "guided")  # the same images
    del one.rows
    evaluate.run(one, tmp_path)
    (row,) = evidence_in(tmp_path)["rows"].values()
    other = evidence_in(measured)["rows"]["cfg_3"]
    for name in ("guidance", "rule", "made_of", "evaluations", "seconds"):
        assert row[name] == other[name]
    assert row["frechet_distance"] > 0


def test_guidance_on_the_command_line_is_not_ignored_beside_rows(config, tmp_path):
    one = overrides.apply(config, [overrides.override("guidance.scale", 3.0)])
    with pytest.raises(UserError, match=r"config.guidance.scale was set.* rows.unguided.guidance"):
        evaluate.run(one, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.longer
def test_seeds_are_repeated_in_blocks_of_their_own(config, measured, tmp_path):
    """Three sets of 12 images: the first is that of a single evaluation, in 36 images in all."""
    work = tmp_path / "work"
    shutil.copytree(measured, work)
    evaluate.run(changed(config, repeats=3), work)
    once, found = evidence_in(measured), evidence_in(work)
    assert found["repeats"] == 3 and found["images"] == 12
    row = found["rows"]["cfg_3"]
    store = Store.open(work / "cfg_3", 36)
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    extractor = make_extractor(config.evaluation.classifier)
    values = [
        metrics.frechet_distance(
            real.moments, extractor(store.read(np.arange(at, at + 12))).features
        )
        for at in (0, 12, 24)
    ]
    assert len(set(values)) == 3
    assert values[0] == pytest.approx(once["rows"]["cfg_3"]["frechet_distance"])
    spread = row["spread"]["frechet_distance"]
    assert row["frechet_distance"] == spread["mean"] == pytest.approx(np.mean(values))
    assert spread["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert spread["minimum"] == pytest.approx(min(values)) and spread["count"] == 3
    assert "agreement" not in found["rows"]["unconditional"]["spread"]
    page = (work / "evidence.md").read_text()
    assert "3 times 12 images a row" in page and "of 3)" in page and " ± " in page


@pytest.mark.longer
def test_what_gains_are_made_of_is_said_with_the_classes_matched(config, measured):
    evaluate.run(changed(config, resample=2, metrics=("frechet_distance",)), measured)
    found = evidence_in(measured)
    for row in found["rows"].values():
        assert 0 < row["resampled_effective_share"] <= 1 and row["resampled_frechet_distance"] > 0
    page = (measured / "evidence.md").read_text()
    assert "## What gains are made of" in page and "| nearer than CFG 3 |" in page


def test_classes_need_the_classifier_that_sorted_the_real_images(config, tmp_path):
    path = tmp_path / "moments.npz"
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    np.savez(path, mu=real.moments.mean, sigma=real.moments.covariance)
    one = changed(
        config, statistics=str(path), resample=1, metrics=("frechet_distance", "contrast")
    )
    with pytest.raises(UserError, match="resampled_frechet_distance needs real_ranks"):
        evaluate.run(one, tmp_path / "work")


@pytest.mark.longer
def test_few_images_are_warned_of_with_the_bias(config, measured, capsys):
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    one = changed(config, count=4, metrics=("frechet_distance",))
    evaluate.run(one, measured)
    bias = metrics.frechet_bias(real.moments, 4)
    said = capsys.readouterr().out
    assert (
        f"note: 4 images of the real set's own distribution would be at a Frechet distance of "
        f"some {bias:.3g}" in said
    )
    assert evidence_in(measured)["rows"]["cfg_3"]["frechet_bias"] == pytest.approx(bias)


@pytest.mark.longer
def test_whose_features_published_moments_are_in_is_written_down_as_not_said(
    config, measured, capsys
):
    real = RealStatistics.load(find_statistics(config.evaluation.statistics, ()))
    moments = {"mu": real.moments.mean, "sigma": real.moments.covariance}
    other = {"mu": np.zeros(3), "sigma": np.eye(3)}
    (measured / "edm2.pkl").write_bytes(pickle.dumps({"fid": other, "mine": moments}))
    one = changed(config, statistics="edm2.pkl", metrics=("frechet_distance",))
    with pytest.raises(UserError, match="several state dicts.*fid, mine"):
        evaluate.run(one, measured)
    evaluate.run(changed(one, statistics_key="mine"), measured)
    assert "do not say whose features they are in" in capsys.readouterr().out
    found = evidence_in(measured)
    assert found["real"]["extractor"] == "not said" and found["real"]["key"] == "mine"
    assert "(the statistics do not say whose)" in (measured / "evidence.md").read_text()


@pytest.mark.longer
def test_images_are_measured_some_at_a_time(config, measured, monkeypatch):
    evaluate.run(config, measured)
    whole = evidence_in(measured)["rows"]["cfg_3"]
    monkeypatch.setattr(measuring, "AT_ONCE", 5)
    (measured / "evidence.json").unlink()
    evaluate.run(config, measured)
    for name, value in evidence_in(measured)["rows"]["cfg_3"].items():
        if isinstance(value, float) and name != "seconds":
            assert value == pytest.approx(whole[name], rel=1e-9), name
