"""The fields every experiment has, at defaults that an experiment overrides."""

from ml_collections import ConfigDict

SD_VAE = "sd-vae-ft-mse.safetensors"


def base() -> ConfigDict:
    """Return a config with every section; unknown keys are refused from here on."""
    return ConfigDict(
        dict(
            name="",
            # Modules of one's own (or .py files) whose parts the config may name.
            imports=(),
            seed=0,
            data=dict(name="", split="train", dir="", flip=False, most_damaged=0.001),
            # With inputs=dict(scale=(1.0, 5.0)) any network of a time embedding takes a number.
            model=dict(name="dit"),
            training=dict(
                steps=0,
                batch_size=128,
                label_dropout=0.1,
                # What is minimised, part by part: training/recipes.py says where each is found.
                loss=dict(name="denoising"),
                noise=dict(name="log_normal", mean=-1.2, std=1.2),
                weighting=dict(name="uniform", target="network"),
                kernel=dict(name="gaussian"),
                augmentation=dict(name="none"),
                perturbation=dict(name="none"),
                objective=dict(name="mean"),
                loss_scale=1.0,
                # How a step is computed, not what: micro-batches whose gradients are added up, and
                # what the backward pass computes again (none, full, dots, dots_no_batch).
                accumulate=1,
                remat="none",
                # Weights that the network begins from (fresh parameters where empty), and which of
                # its parameters: regexes on their paths, those to take and of these those to leave.
                init_from=dict(weights="", take=(".*",), leave=()),
            ),
            # Further networks that the loss sees, by role: `teacher=dict(init_from="digits")` is
            # frozen; with frozen=False it is trained by `optimizer` and, with average=True,
            # averaged like the main one. Its model is that of its weights unless `model` says.
            roles=dict(),
            # What is measured while training, by name: dict(name="held_out_loss" or "frechet",
            # every_images=N, ...), see commands/train.py.
            evaluators=dict(),
            optimizer=dict(
                learning_rate=1e-3,
                schedule="constant",  # constant, cosine, inverse_sqrt
                warmup_steps=100,
                decay_steps=0,
                # In images instead, where not 0.
                warmup_images=0,
                decay_images=0,
                b1=0.9,
                b2=0.99,
                eps=1e-8,
                weight_decay=0.0,
                clip_norm=1.0,
                nonfinite="keep",  # or in gradients: zero; edm, NaN to 0 and infinities to 1e5
            ),
            ema=dict(
                # half_life: images, at most ramp_up of those seen; power: a relative std;
                # constant: the same decay at every step.
                profile="half_life",
                images=50_000,
                ramp_up=0.05,
                std=0.05,
                decay=0.9999,
                tracked=(),  # stds of power-function averages kept beside the main one
                # Those with a std are stored every so many images, for --mode=ema; with the
                # weights themselves, for --mode=lcsc.
                snapshot_images=0,
                snapshot_weights=False,
                # What --mode=ema makes of them: a width, when (0 is the last), its type.
                reconstruct=0.0,
                at_images=0,
                reconstruct_dtype="float16",
            ),
            # What --mode=lcsc combines, and how long it looks for the best combination: files below
            # the workdir, samples a candidate, and features, "pixels" or a classifier's weights.
            lcsc=dict(
                files="ema_snapshots/*-weights.safetensors",
                images=500,
                features="pixels",
                evaluations=200,
                population=20,
                spread=0.1,
            ),
            # What --mode=affinity measures: parts of the noise levels, batches, and their size.
            affinity=dict(grid=20, batches=4, batch_size=64),
            # Devices: a preset (replicated, fsdp, fsdp_tensor, pmap), sizes of the mesh's axes (0:
            # the preset's own, -1: what the others leave), and rules from a regex on a parameter's
            # path to axes of its last dimensions, (("mlp_in/kernel", (None, "tensor")),).
            sharding=dict(
                preset="replicated",
                mesh=dict(data=0, fsdp=0, tensor=0),
                rules=(),
                whole_below=2**12,  # numbers: smaller parameters may stay whole
            ),
            # Of the newest checkpoints `keep` stay, and those at multiples of keep_every_steps.
            checkpoint=dict(
                every_steps=500,
                keep=2,
                keep_every_steps=0,
                verify="contents",  # or sizes: files are not read twice
                force=False,  # continue in the workdir of another config
            ),
            # Several processes: the first one as host:port, their number, which one this is; or
            # "auto" where Cloud TPU, SLURM or Open MPI know.
            hosts=dict(coordinator="", count=0, index=-1),
            # Of compiled programs: a folder, "off", or "auto", which is xla/ in $GUIDESTAR_CACHE or
            # ~/.cache/guidestar.
            compilation_cache="auto",
            # What --mode=sample makes: rule, solver and schedule by constructor name.
            guidance=dict(name="cfg", scale=2.0),
            sampler=dict(
                solver=dict(name="heun"),
                schedule=dict(name="karras", steps=32, sigma_min=0.002, sigma_max=80.0, rho=7.0),
            ),
            sampling=dict(
                weights=dict(main="", guide="", classifier=""),
                count=64,
                batch_size=64,
                classes="all",  # or "none", or labels, "0,3,7", taken in turn
                branches="fused",  # or sequential: less memory
                inputs=dict(),  # numbers that the main network takes: dict(scale=3.0)
                format="png",  # or npz
                # Of latents: the autoencoder's weights (latents are kept where empty), how they are
                # scaled (what the weights say; or dit, edm2), and whether the decoder may be of
                # another file than made them.
                decoder="",
                scaling="",
                any_decoder=False,
            ),
            # What --mode=restore restores: a folder of measured images, or one .npy of them; those
            # of config.data, measured here, where empty. The operator is one of
            # guidance.operators, its arrays may be files; noise is of measurements made here.
            restore=dict(measurements="", operator=dict(name="average_pool", size=2), noise=0.0),
            # How --mode=search searches for each image: by one of inference.search, within a budget
            # of network evaluations, for the log-probability of the image's class to a classifier
            # (the verifier). A judge, another classifier or a denoiser as one (at the levels of
            # classification.schedule), says of what is found whether it is of its class.
            search=dict(method=dict(name="best_of_n"), budget=0, verifier="", judge=""),
            # What --mode=encode makes of a data set: its latents, scaled when they are read.
            encoding=dict(
                autoencoder="",
                scaling="fitted",  # to mean 0 and `std` in every channel; or dit, edm2
                std=0.5,
                image_range="symmetric",  # of fitted ones: what the autoencoder takes, or unit
                mirror=False,  # mirrored images, too
                batch_size=64,
                records_per_shard=5000,
            ),
            # What --mode=decode decodes: a folder of --mode=encode, or of --mode=sample.
            decoding=dict(
                latents="",
                count=0,  # all
                compare=False,  # with config.data, of which the latents were made
            ),
            # What --mode=classify asks the denoiser: images of config.data (0: all), at which noise
            # levels, one a draw, and in stages: (draws, classes that go on), the last with all
            # draws and one class; empty for all draws of every class.
            classification=dict(
                schedule=dict(name="exponential", steps=64, sigma_min=0.05, sigma_max=20.0),
                stages=(),
                count=0,
                batch_size=256,
            ),
            # What --mode=sweep tries: the trials that get_hyper says (sampler "grid"; get_hyper of
            # the config's own file, or of the one that `definition` names), or as many as `trials`
            # says, which Optuna proposes ("tpe", "random") from `space`, a tuple of dict(field=...,
            # low=..., high=..., log=..., int=...) or dict(field=..., choices=...).
            sweep=dict(
                sampler="grid",
                definition="",
                space=(),
                trials=0,
                metric="frechet_distance",
                direction="minimize",  # or maximize
                seed=0,  # of the proposals; images have the config's in every trial
                # A search's trials are first measured on so many images (0: on all at once), and
                # given up where the median of finished ones is better, once there are `startup`.
                pruning=dict(images=0, startup=5),
                keep_images=None,  # None: those of a grid; True, False
                # SQLite in the workdir where empty; postgresql://user@host/name, or journal:PATH.
                storage="",
                study="",  # its name there; the config's if empty
                workers=1,  # processes on this machine
                lease=60.0,  # seconds without a sign, after which another worker is taken for dead
                dry_run=False,
            ),
            # What --mode=prepare makes of a folder of pictures.
            prepare=dict(
                source="",
                size=64,
                channels=3,
                records_per_shard=10_000,
                most_damaged=0.001,  # share of pictures that may be unreadable
            ),
            # What --mode=import reads: files separated by commas, and what they do not say.
            weights=dict(
                source="",
                entry="",  # of a training checkpoint, which state dict; the averaged one if empty
                model="",  # fields of the model section, "name=sit,heads=16"
                name="",  # of what is written; the source's if empty
                dtype="",  # float16, bfloat16, float32; as stored if empty
                std=0.0,  # of several snapshots: relative width of the average made of them
                sha256="",  # of the one file, checked before anything is read
            ),
            log=dict(
                every_steps=20,
                preview_every_steps=1000,
                tensorboard=True,
                wandb="",  # project of Weights & Biases
            ),
        )
    )


def part(name: str, **arguments) -> ConfigDict:
    """Return a section that names a part of a recipe, with its arguments."""
    return ConfigDict(dict(name=name, **arguments))


def latents(config: ConfigDict, scaling: str = "", decoder: str = SD_VAE) -> ConfigDict:
    """Say how the latents that a network makes are scaled, and what decodes them."""
    config.sampling.update(scaling=scaling, decoder=decoder)
    return config


def dit(config: ConfigDict, **model) -> ConfigDict:
    """Set the ``model`` section to a DiT with ``model``'s fields."""
    fields = dict(name="dit", learn_variance=False, scan_layers=False, dtype="float32")
    config.model = ConfigDict(fields | model)
    return config
