"""Overview: all jobs and sites at a glance."""

from .model import Dashboard, ORANGE, Panel, RED, one, or_zero, per_second, stat

TO_JOB = ("Open the job", "/d/rounds-job?var-job=${__data.fields.job}")
TO_SITE = ("Open the site", "/d/rounds-sites?var-site=${__field.labels.site}")
SILENT = "time() - " + one("site", "rounds_site_last_seen_timestamp_seconds")

DASHBOARD = Dashboard(
    "overview",
    "Overview",
    "All jobs and sites at a glance. Begin here; then open one job.",
    [
        stat(
            "Jobs running",
            "Jobs that go on.",
            (or_zero("sum(" + one("job", "rounds_job_state", 'state="running"') + ")"), "running"),
        ),
        stat(
            "Jobs paused",
            "A deadline has passed and too few sites have answered. They go on by themselves when the sites answer.",
            (or_zero("sum(" + one("job", "rounds_job_state", 'state="paused"') + ")"), "paused"),
            thresholds=[(1, ORANGE)],
        ),
        stat(
            "Jobs failed",
            "Jobs that failed within the last hour. `rounds show JOB` says why, `rounds resume JOB` goes on.",
            (or_zero("sum(" + one("job", "rounds_job_state", 'state="failed"') + ")"), "failed"),
            thresholds=[(1, RED)],
        ),
        stat(
            "Sites in touch",
            "Sites that were heard of within the last minute.",
            (or_zero(f"count({SILENT} < 60)"), "in touch"),
        ),
        stat(
            "Sites silent",
            "Sites that were announced and have said nothing for a minute.",
            (or_zero(f"count({SILENT} >= 60)"), "silent"),
            thresholds=[(1, ORANGE)],
        ),
        stat(
            "Alerts",
            "Alerts of Rounds that fire now.",
            (or_zero('count(ALERTS{alertstate="firing", service="rounds"})'), "firing"),
            thresholds=[(1, RED)],
        ),
        Panel(
            "Jobs",
            "Rounds done and to do, and the seconds that are left if the next rounds take as long as the last. "
            "Click a job to open it.",
            [
                (one("job", "rounds_job_rounds_completed"), "rounds done"),
                (one("job", "rounds_job_rounds_target"), "of"),
                (one("job", "rounds_global_pseudo_dice", 'class="mean"'), "Dice"),
                ("job:rounds_time_left_seconds:estimate", "time left"),
            ],
            kind="table",
            columns=[("time left", "s"), ("Dice", "none")],
            links=[TO_JOB],
        ),
        Panel(
            "Mean Dice",
            "Pseudo Dice on validation patches of all sites together, mean over classes, after each round.",
            [(one("job", "rounds_global_pseudo_dice", 'class="mean"'), "{{job}}")],
            "none",
            least=0,
            most=1,
        ),
        Panel(
            "Sites",
            "Seconds since a site was last heard of. More than a minute: its processes do not run, or its network is cut.",
            [(SILENT, "{{site}}")],
            "s",
            "bargauge",
            thresholds=[(30, ORANGE), (60, RED)],
            least=0,
            links=[TO_SITE],
        ),
        Panel(
            "Work answered",
            "Tasks that sites and orchestrators answered, by phase.",
            [(per_second("phase", "rounds_site_tasks_total"), "{{phase}}")],
            "ops",
        ),
        Panel(
            "Failed for good",
            "Tasks that failed for good in the last hour, by site and code. `rounds dead` lists them, `rounds retry` tries "
            "them again once the cause is mended.",
            [
                (
                    or_zero(
                        "sum by (site, reason) (max by (site, phase, reason) "
                        "(increase(rounds_dead_letters_total[1h])))"
                    ),
                    "{{site}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Artifacts on the wire",
            "Bytes of weights, fingerprints and segmentations that move between sites and the hub. Never scans.",
            [(per_second("direction", "rounds_site_wire_bytes_total"), "{{direction}}")],
            "Bps",
        ),
    ],
)
