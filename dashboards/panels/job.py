"""One job."""

from .model import Dashboard, Panel, RED, Variable, one, row, stat

JOB = 'job="$job"'

DASHBOARD = Dashboard(
    "job",
    "One job",
    "One training job: is it learning, does every site keep up, and when will it be done.",
    [
        stat(
            "State",
            "running; paused: too few sites answered before the deadline; or how it ended.",
            (one("state", "rounds_job_state", JOB) + " == 1", "{{state}}"),
            names=True,
            width=3,
        ),
        stat(
            "Phase",
            "The phase that the job is in; nothing once it has ended.",
            (one("phase", "rounds_job_phase", JOB) + " == 1", "{{phase}}"),
            names=True,
            width=3,
        ),
        stat("Rounds done", "Rounds averaged.", (one("job", "rounds_job_rounds_completed", JOB), "done"), width=3),
        stat("Rounds to do", "Rounds to average in all.", (one("job", "rounds_job_rounds_target", JOB), "all"), width=3),
        stat(
            "Time left",
            "If the next rounds take as long as those so far.",
            (f"job:rounds_time_left_seconds:estimate{{{JOB}}}", "left"),
            "s",
            width=3,
        ),
        stat(
            "Mean Dice",
            "Pseudo Dice of the last scored average, pooled over sites. With fold_id all it is on training cases.",
            (one("job", "rounds_global_pseudo_dice", f'{JOB}, class="mean"'), "Dice"),
            "none",
            decimals=4,
            width=3,
            trend=True,
        ),
        stat(
            "Updates in",
            "Sites that have answered, of those that the round was released to.",
            (
                one("job", "rounds_round_updates_received", JOB)
                + " / "
                + one("job", "rounds_round_sites_expected", JOB),
                "answered",
            ),
            "percentunit",
            width=3,
        ),
        stat(
            "Plans that differ",
            "Sites whose plans or initial weights are not the first site's. 0, or the job fails with both values.",
            (f"sum({one('site', 'rounds_plan_mismatch', JOB)})", "differ"),
            thresholds=[(1, RED)],
            width=3,
        ),
        row("Learning"),
        Panel(
            "Dice by class",
            "Pseudo Dice of each class on validation patches of all sites together, as nnU-Net's DDP pools it.",
            [(one("class", "rounds_global_pseudo_dice", JOB), "{{class}}")],
            "none",
            least=0,
            most=1,
        ),
        Panel(
            "Dice by site",
            "Mean pseudo Dice at each site of the weights that its last round started from. A site far below the others "
            "has other scans, or other labels.",
            [(one("site", "rounds_site_pseudo_dice", f'{JOB}, class="mean"'), "{{site}}")],
            "none",
            least=0,
            most=1,
        ),
        Panel(
            "Training loss by site",
            "Of each site's last epoch.",
            [(one("site", "rounds_site_train_loss", JOB), "{{site}}")],
            "none",
        ),
        Panel(
            "Validation loss by site",
            "At each site, of the global weights that its last round started from.",
            [(one("site", "rounds_site_val_loss", JOB), "{{site}}")],
            "none",
        ),
        Panel(
            "Length of the updates",
            "How far each site moved the weights in its last round (L2). One that is many times longer pulls the average.",
            [(one("site", "rounds_site_update_norm", JOB), "{{site}}")],
            "none",
        ),
        Panel(
            "Share in the average",
            "By training cases, unless the job weighs otherwise.",
            [(one("site", "rounds_site_weight_ratio", JOB), "{{site}}")],
            "percentunit",
            "bargauge",
            least=0,
            most=1,
        ),
        row("Keeping up"),
        Panel(
            "Round by site",
            "Seconds from the release of the last round to each site's answer.",
            [(one("site", "rounds_site_round_duration_seconds", JOB), "{{site}}")],
            "s",
            least=0,
        ),
        Panel(
            "Behind the first",
            "Seconds that each site answered after the first. The round waits for the last.",
            [(one("site", "rounds_site_straggler_delay_seconds", JOB), "{{site}}")],
            "s",
            least=0,
        ),
        Panel(
            "Where a round's time goes",
            "Mean seconds of a round's stages: training at the sites, to the last answer, and averaging.",
            [
                (
                    f"sum by (stage) (rounds_round_stage_seconds_sum{{{JOB}}}) / "
                    f"sum by (stage) (rounds_round_stage_seconds_count{{{JOB}}})",
                    "{{stage}}",
                )
            ],
            "s",
            "bargauge",
            least=0,
        ),
        Panel(
            "Time in this round",
            "Seconds since the last round was released, and what a round took on average so far.",
            [
                (f"time() - {one('job', 'rounds_round_start_timestamp_seconds', JOB)}", "this round"),
                (f"job:rounds_round_duration_seconds:mean{{{JOB}}}", "mean"),
            ],
            "s",
            least=0,
        ),
    ],
    [Variable("job", "Job", "The job to look at", "label_values(rounds_job_rounds_target, job)")],
)
