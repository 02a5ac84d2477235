"""GPUs."""

from .model import Dashboard, Panel, Variable, one, per_second

SITE = 'site=~"$site"'

DASHBOARD = Dashboard(
    "gpus",
    "GPUs",
    "Are the accelerators busy, cool, and large enough. Empty where no site has one of NVIDIA's.",
    [
        Panel(
            "Busy",
            "Share of the time that each accelerator computes. Low while training: see where training time goes.",
            [(one("site, gpu", "rounds_site_gpu_utilisation_ratio", SITE), "{{site}} {{gpu}}")],
            "percentunit",
            least=0,
            most=1,
            needs="gpu",
        ),
        Panel(
            "Memory in use",
            "Share of each accelerator's memory. Near 1 a plan's batch may not fit: lower gpu_memory_target_gb.",
            [
                (
                    one("site, gpu", "rounds_site_gpu_memory_used_bytes", SITE)
                    + " / "
                    + one("site, gpu", "rounds_site_gpu_memory_total_bytes", SITE),
                    "{{site}} {{gpu}}",
                )
            ],
            "percentunit",
            least=0,
            most=1,
            needs="gpu",
        ),
        Panel(
            "Temperature",
            "Above some 85 degrees an accelerator slows itself down.",
            [(one("site, gpu", "rounds_site_gpu_temperature_celsius", SITE), "{{site}} {{gpu}}")],
            "celsius",
            needs="gpu",
        ),
        Panel(
            "Power",
            "What each accelerator draws.",
            [(one("site, gpu", "rounds_site_gpu_power_watts", SITE), "{{site}} {{gpu}}")],
            "watt",
            needs="gpu",
        ),
        Panel(
            "Iterations trained",
            "Training iterations a second at each site, to compare with how busy its accelerators are.",
            [(per_second("site", "rounds_site_train_iterations_total", SITE), "{{site}}")],
            "ops",
            least=0,
        ),
        Panel(
            "Where training time goes",
            "Seconds of each second of training. Much load: the accelerator waits for batches.",
            [(per_second("site, stage", "rounds_site_train_stage_seconds_total", SITE), "{{site}} {{stage}}")],
            "percentunit",
            least=0,
        ),
    ],
    [Variable("site", "Site", "The sites to look at", "label_values(rounds_site_worker_slots, site)", multi=True)],
)
