"""Every solver against its number of network evaluations: on an exact mixture, and on images.

make solvers    python main.py --config=configs/solvers.py --workdir=out/solvers --mode=solvers

Some rows alone: ``--config=configs/solvers.py:euler,unipc_3``.
"""

from ml_collections import ConfigDict

from guidestar.configs import common


def row(title: str, name: str, *, images=False, random=False, **arguments) -> dict:
    """Return a row: a solver, whether it is measured on images too, and whether it adds noise."""
    return dict(
        title=title,
        solver=dict(name=name, **arguments),
        on=("mixture", "images") if images else ("mixture",),
        random=random,
        calibrate=False,
        search={},
    )


def searched(title: str, name: str, search: dict, on=("images",), **arguments) -> dict:
    """Return a row whose schedule, or whose solver for each step, is the result of a search."""
    return row(title, name, **arguments) | dict(search=search, on=on)


# GITS' own cost, the distance from a line, says nothing of samples that are one number each.
GITS = dict(by="select", cost="l2", gamma=1.15)
BOSS = dict(by="select", cost="flow")
# Optuna's searches try many samplers: at one number of evaluations, on a few samples.
TRIED = dict(at=(10,), trials=100, samples=32)
ROWS = {
    "euler": row("Euler (DDIM)", "euler", images=True),
    "heun": row("Heun", "heun", images=True),
    "midpoint": row("Midpoint", "heun", alpha=0.5),
    "dpm_2": row("DPM-2", "dpm_2", images=True),
    "dpm_solver_3": row("DPM-Solver-3, singlestep", "dpm_solver", order=3),
    "dpm_solver_2m": row("DPM-Solver-2, multistep", "dpm_solver", order=2, singlestep=False),
    "dpmpp_2s": row("DPM-Solver++(2S)", "dpmpp", order=2, singlestep=True),
    "dpmpp_3s": row("DPM-Solver++(3S)", "dpmpp", order=3, singlestep=True),
    "dpmpp_2m": row("DPM-Solver++(2M)", "dpmpp", order=2, images=True),
    "dpmpp_3m": row("DPM-Solver++(3M)", "dpmpp", order=3, images=True),
    "dpmpp_3m_published": row("DPM-Solver++(3M) as published", "dpmpp", order=3, as_published=True),
    "unipc_2": row("UniPC-2", "unipc", order=2, images=True),
    "unipc_3": row("UniPC-3", "unipc", order=3, images=True),
    "dpm_solver_v3": row("DPM-Solver-v3", "dpm_solver_v3", order=2, images=True)
    | dict(calibrate=True),
    "evodiff": row("EVODiff", "evodiff"),
    "lms_4": row("LMS, order 4", "lms", order=4),
    "pndm": row("PNDM", "pndm"),
    "ipndm_4": row("iPNDM, order 4", "ipndm", order=4, images=True),
    "ipndm_v_4": row("iPNDM-v, order 4", "ipndm_v", order=4),
    "deis_tab_3": row("DEIS tAB2", "deis", order=3, images=True),
    "deis_tab_4": row("DEIS tAB3", "deis", order=4),
    "deis_rhork_3": row("DEIS rhoRK3", "deis", order=3, mode="rhork"),
    "euler_gits": searched("Euler, GITS' schedule", "euler", GITS, on=("mixture",)),
    "euler_boss": searched("Euler, BOSS' schedule", "euler", BOSS, on=("mixture", "images")),
    "euler_timesteps": searched(
        "Euler, searched schedule", "euler", TRIED | dict(by="timesteps"), on=("mixture", "images")
    ),
    "strategies": searched(
        "Searched for each step", "euler", TRIED | dict(by="strategies"), on=("mixture", "images")
    ),
    "ancestral": row("Ancestral (DDPM)", "ancestral", random=True),
    "edm_churn": row("EDM churn", "edm_churn", random=True),
    "dpm_2_ancestral": row("DPM-2 ancestral", "dpm_2_ancestral", random=True),
    "dpmpp_2s_ancestral": row("DPM++(2S) ancestral", "dpmpp_2s_ancestral", random=True),
    "dpmpp_sde": row("SDE-DPM++", "dpmpp_sde", random=True),
    "dpmpp_2m_sde": row("SDE-DPM++(2M)", "dpmpp_2m_sde", images=True, random=True),
    "dpmpp_3m_sde": row("SDE-DPM++(3M)", "dpmpp_3m_sde", random=True),
    "sa_solver": row("SA-Solver", "sa_solver", random=True),
    "euler_maruyama": row("Euler-Maruyama, flow", "euler_maruyama", random=True),
}


def search(fine: int) -> dict:
    """Return the fine trajectories that schedules are searched on."""
    return dict(samples=256, solver=dict(name="ipndm", order=4), steps=fine)


def get_config(rows: str = ""):
    """Return the config, of all rows or of those named with commas between them."""
    names = rows.split(",") if rows else list(ROWS)
    if unknown := set(names) - ROWS.keys():
        raise ValueError(f"unknown rows {sorted(unknown)}; there are {', '.join(ROWS)}")
    config = common.base()
    config.name = "solvers"
    config.guidance = ConfigDict(dict(name="unguided"))
    config.sampler.schedule = ConfigDict(
        dict(name="log_snr", steps=10, sigma_min=0.02, sigma_max=80.0)
    )
    config.sampling.weights.main = "fashion_mnist_dit"
    config.study = ConfigDict(
        dict(
            command="make solvers",
            classifier="fashion_mnist_classifier",
            statistics="fashion_mnist_statistics",
            mixture=dict(
                count=4096,
                evaluations=(5, 10, 20, 40, 80, 160),
                reference=dict(solver=dict(name="heun"), steps=4000),
                search=search(fine=320),
            ),
            images=dict(
                count=1000,
                batch_size=100,
                evaluations=(5, 8, 10, 15, 20, 35),
                reference=dict(solver=dict(name="heun"), steps=100),
                search=search(fine=60),
            ),
            # Of DPM-Solver-v3's statistics, from the denoiser's own trajectories.
            calibration=dict(intervals=60, samples=256, batch=64),
        )
    )
    # What beats DDIM at this many evaluations, and by how much, is said first on the page.
    config.margins = ConfigDict(
        dict(
            evaluations=10,
            rows=(
                "dpm_solver_v3",
                "unipc_2",
                "unipc_3",
                "euler_boss",
                "euler_timesteps",
                "strategies",
            ),
        )
    )
    # A ConfigDict sorts its names.
    config.order = tuple(names)
    config.rows = ConfigDict({name: ROWS[name] for name in names})
    return config
