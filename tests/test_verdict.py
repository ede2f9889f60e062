"""Made-up figures, of which the right verdict is known."""

from pathlib import Path

import pytest
from test_page import Tags
from test_report import fake_run

from ladder_vae.comparison.groups import Group
from ladder_vae.comparison.verdict import verdict
from ladder_vae.runs.record import Record, write_metrics


def group(depth, elbos, mse=0.1, kind="LadderVAE", **more):
    """Runs of as many seeds as there are ELBOs."""
    config = {"model": {"_target_": f"ladder_vae.models.{kind}", "num_layers": depth}}
    settings = {"model.num_layers": depth, "model._target_": config["model"]["_target_"]}
    metrics = [
        {
            name: value
            for name, value in {"test/elbo": elbo, "test/mse": mse, **more.get("metrics", {})}.items()
            if value is not None
        }
        for elbo in elbos
    ]
    runs = [Record(Path("x"), config, "finished", "", found) for found in metrics]
    return Group(settings | more.get("settings", {}), runs)


def around(mean):
    """Three seeds that scatter by 0.1."""
    return [mean - 0.1, mean, mean + 0.1]


EQUAL = "Reconstructions are equal within 0.0 % (MSE 0.1000 to 0.1000)."
ONE_SEED = "One seed each: how far seeds scatter is unknown."
CASES = {
    "each level brings less": (
        [
            group(1, around(-97.0), 0.0266),
            group(2, around(-92.0), 0.0263),
            group(3, around(-91.1), 0.0263),
            group(5, around(-90.9), 0.0263),
        ],
        "A second level brings 5.0 nats of ELBO, a third 0.9, two more 0.2. Seeds scatter by 0.1 nats. "
        "Reconstructions are equal within 1.1 % (MSE 0.0263 to 0.0266).",
    ),
    "a step within the scatter": (
        [group(1, around(-97.0)), group(2, around(-92.0)), group(3, around(-91.9))],
        "A second level brings 5.0 nats of ELBO, a third 0.1 (which seeds alone can make). "
        f"Seeds scatter by 0.1 nats. {EQUAL}",
    ),
    "one seed": (
        [group(1, [-97.0]), group(2, [-92.0]), group(3, [-91.9])],
        f"A second level brings 5.0 nats of ELBO, a third 0.1. {ONE_SEED} {EQUAL}",
    ),
    "seeds of one depth only": (
        [group(1, around(-97.0)), group(2, [-92.0])],
        "A second level brings 5.0 nats of ELBO. Seeds, of which 1 of 2 models have several, scatter by "
        f"0.1 nats. {EQUAL}",
    ),
    "a tie": (
        [group(2, [-92.0]), group(3, [-92.0]), group(4, [-91.0])],
        f"A third level changes the ELBO by less than 0.01 nats, a fourth brings 1.0. {ONE_SEED} {EQUAL}",
    ),
    "deeper is worse": (
        [group(1, [-92.0]), group(2, [-91.0]), group(3, [-91.04]), group(7, [-94.0]), group(8, [-94.0])],
        "A second level brings 1.0 nats of ELBO, a third costs 0.04, four more 3.0, an eighth changes the "
        f"ELBO by less than 0.01. {ONE_SEED} {EQUAL}",
    ),
    "deeper is worse at once": (
        [group(1, [-92.0]), group(3, [-93.0])],
        f"Two more levels cost 1.0 nats of ELBO. {ONE_SEED} {EQUAL}",
    ),
    "many depths": (
        [group(depth, [-90.0 + (depth == 4)]) for depth in range(1, 9)],
        "Seven more levels change the ELBO by less than 0.01 nats in all; the highest ELBO has L=4. "
        f"{ONE_SEED} {EQUAL}",
    ),
    "beyond the words": (
        [group(20, [-92.0]), group(21, [-90.0]), group(64, [-89.0])],
        f"One more level brings 2.0 nats of ELBO, 43 more 1.0. {ONE_SEED} {EQUAL}",
    ),
    "better reconstructions": (
        [group(1, [-97.0], 0.030), group(2, [-92.0], 0.024)],
        f"A second level brings 5.0 nats of ELBO. {ONE_SEED} The best reconstructions have 2 levels: "
        "MSE 0.0240 to 0.0300, 20 % apart.",
    ),
    "no MSE": (
        [group(d, [-90.0 - d], None, metrics={"test/distortion": 60.0 + d}) for d in (1, 2)],
        f"A second level costs 1.0 nats of ELBO. {ONE_SEED} Distortions differ by up to 1.0 nats; no MSE was "
        "measured.",
    ),
    "neither": (
        [group(1, [-97.0], None), group(2, [-92.0], None)],
        f"A second level brings 5.0 nats of ELBO. {ONE_SEED}",
    ),
    "an MSE of some": (
        [group(1, [-97.0], None), group(2, [-92.0]), group(3, [-91.0])],
        f"A second level brings 5.0 nats of ELBO, a third 1.0. {ONE_SEED} Reconstructions are equal within "
        "0.0 % (MSE 0.1000 to 0.1000, of the 2 depths that have one).",
    ),
    "one depth": (
        [group(3, [-91.0])],
        "LadderVAE, L=3: ELBO -91.00 nats. There is no other depth or model to compare with. " + ONE_SEED,
    ),
    "no ELBO": ([group(3, [None])], "No run has a test ELBO: there is nothing to compare."),
    "nothing": ([], "No run has finished: there is nothing to compare."),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict(case):
    groups, expected = CASES[case]
    assert verdict(groups) == [expected]


def test_what_has_no_elbo_and_what_has_not_finished_is_named():
    groups = [group(1, [-97.0]), group(2, [-92.0]), group(3, [None])]
    first, *others = verdict(groups, [f"run{n} (failed)" for n in range(7)])
    assert first == f"A second level brings 5.0 nats of ELBO. {ONE_SEED} {EQUAL}"
    assert others == [
        "No ELBO was measured of LadderVAE, L=3.",
        "In no number here: run0 (failed), run1 (failed), run2 (failed), run3 (failed), run4 (failed), and "
        "2 more.",
    ]


def test_two_models():
    groups = [group(2, around(-92.0), kind="BottomUpVAE"), group(2, around(-91.0)), group(3, around(-90.0))]
    assert verdict(groups) == [
        "The highest ELBO, -90.00 nats, has LadderVAE, L=3: 2.0 more than the best of the others, "
        "BottomUpVAE, L=2.",
        f"LadderVAE: A third level brings 1.0 nats of ELBO. Seeds scatter by 0.1 nats. {EQUAL}",
    ]
    near = [group(2, around(-92.0), kind="BottomUpVAE"), group(2, around(-91.9))]
    assert verdict(near) == [
        "The highest ELBO, -91.90 nats, has LadderVAE, L=2: 0.1 more than the best of the others, "
        "BottomUpVAE, L=2, which seeds alone can make.",
        "No model has several depths: what levels bring is unknown. Seeds scatter by 0.1 nats.",
    ]


def of_values(depth, elbos, per_nat=0.002, **more):
    """Runs on pixels of 256 values."""
    made = group(depth, elbos, **more)
    for run in made.runs:
        run.metrics["test/bits_per_dim"] = -per_nat * run.metrics["test/elbo"]
    return made


def test_bounds_on_256_values_are_in_bits_per_dimension_too():
    depths = [of_values(1, around(-1000.0)), of_values(2, around(-990.0)), of_values(3, around(-989.98))]
    assert verdict(depths) == [
        "A second level brings 10.0 nats of ELBO (0.0200 bits per dimension), a third 0.02 (less than "
        "0.0001, which seeds alone can make). Seeds scatter by 0.1 nats (0.0002 bits per dimension). "
        f"{EQUAL}"
    ]
    models = [of_values(2, [-1000.0], kind="NVAE"), of_values(2, [-900.0])]
    assert verdict(models)[0] == (
        "The highest ELBO, -900.00 nats (1.800 bits per dimension), has LadderVAE, L=2: 100.0 (0.2000) "
        "more than the best of the others, NVAE, L=2."
    )
    assert verdict(models[:1])[0].startswith("NVAE, L=2: ELBO -1,000.00 nats (2.000 bits per dimension). ")


def test_where_images_have_other_sizes_no_difference_is_in_bits():
    """One nat is another number of bits per dimension there."""
    groups = [
        of_values(2, around(-1000.0), settings={"data.size": 8}),
        of_values(2, around(-4000.0), per_nat=0.0005, settings={"data.size": 16}),
    ]
    assert verdict(groups)[-1].endswith("Seeds scatter by 0.1 nats.")
    evaluated_only = [group(1, [-90.0]), of_values(1, [-1000.0])]
    evaluated_only[1].runs[0].metrics.update({"test_9/log_px/K=5": -500.0, "test_9/bits_per_dim/K=5": 1.0})
    del evaluated_only[1].runs[0].metrics["test/bits_per_dim"]
    assert [made.bits_per_nat for made in evaluated_only] == [None, 0.002]


def test_elbos_of_other_pixels_are_not_compared():
    groups = [group(2, [-92.0], settings={"data.binarization": kind}) for kind in ("dynamic", "static")]
    assert verdict(groups)[0].endswith("their ELBOs do not compare.")
    groups = [group(2, [-92.0 + size], settings={"data.batch_size": size}) for size in (1, 2)]
    assert "1.0 more than the best of the others" in verdict(groups)[0]


def test_terminal_and_page_begin_with_the_same_verdict(tmp_path, command):
    for depth, elbo in ((1, -97.0), (2, -92.0)):
        fake_run(tmp_path / f"L{depth}", depth, 1, elbo)
    write_metrics(tmp_path / "L2", {"test/elbo": -92.0, "test/mse": 0.1})
    fake_run(tmp_path / "L3", 3, 1, -1.0, status="failed")
    code, out, err = command("report", str(tmp_path))
    assert code == 0, err
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    said = [
        f"A second level brings 5.0 nats of ELBO. {ONE_SEED} {EQUAL}",
        "In no number here: L3 (failed the loss is not finite).",
    ]
    assert out.splitlines()[-3:] == [*said, str(tmp_path / "report.html")]
    assert text.startswith("# Comparison of runs\n\n## Verdict\n\n" + "\n\n".join(said))
    assert page.index(said[0]) < page.index(said[1]) < page.index("<img") < page.index("<table")
    tags = Tags(page).found
    pictures = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(pictures) == len(list((tmp_path / "figures").iterdir()))
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not any(tag in ("link", "script", "iframe") for tag, _ in tags)
    assert {"depth_elbo.png", "depth_mse.png"} <= {path.name for path in (tmp_path / "figures").iterdir()}
