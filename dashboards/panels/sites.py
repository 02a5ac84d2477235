"""Sites."""

from .model import Dashboard, ORANGE, Panel, RED, Variable, at_sites, one, or_zero, per_second

SITE = 'site=~"$site"'

DASHBOARD = Dashboard(
    "sites",
    "Sites",
    "What each site does, sends and receives: for its own IT and for the consortium.",
    [
        Panel(
            "Last heard of",
            "Seconds since a site was last heard of.",
            [("time() - " + one("site", "rounds_site_last_seen_timestamp_seconds", SITE), "{{site}}")],
            "s",
            "bargauge",
            thresholds=[(30, ORANGE), (60, RED)],
            least=0,
        ),
        Panel(
            "Clock skew",
            "The orchestrator's clock less the site's. Certificates and deadlines suffer from more than some seconds.",
            [(one("site", "rounds_site_clock_skew_seconds", SITE), "{{site}}")],
            "s",
        ),
        Panel(
            "At work",
            "Tasks being worked on, by site and phase.",
            [(at_sites("site, phase", "rounds_site_tasks_in_flight", SITE), "{{site}} {{phase}}")],
            least=0,
        ),
        Panel(
            "Tasks by outcome",
            "done; retry: failed, to be tried again; failed; stale: answered by another or closed meanwhile.",
            [(per_second("site, outcome", "rounds_site_tasks_total", SITE), "{{site}} {{outcome}}")],
            "ops",
            least=0,
        ),
        Panel(
            "Iterations trained",
            "Training iterations a second at each site.",
            [(per_second("site", "rounds_site_train_iterations_total", SITE), "{{site}}")],
            "ops",
            least=0,
        ),
        Panel(
            "Where training time goes",
            "Seconds of each second of training. Much load: give the site more threads or a faster disk.",
            [(per_second("site, stage", "rounds_site_train_stage_seconds_total", SITE), "{{site}} {{stage}}")],
            "percentunit",
            least=0,
        ),
        Panel(
            "Sent",
            "Bytes of artifacts that leave the site, by phase: updates, fingerprints, segmentations. Never scans.",
            [
                (
                    per_second("site, phase", "rounds_site_wire_bytes_total", SITE + ', direction="sent"'),
                    "{{site}} {{phase}}",
                )
            ],
            "Bps",
            least=0,
        ),
        Panel(
            "Received",
            "Bytes of artifacts that the site fetches, by phase.",
            [
                (
                    per_second("site, phase", "rounds_site_wire_bytes_total", SITE + ', direction="received"'),
                    "{{site}} {{phase}}",
                )
            ],
            "Bps",
            least=0,
        ),
        Panel(
            "Updates refused",
            "Updates that no average takes, in the last hour, by code: not finite, unchanged, of other weights.",
            [
                (
                    or_zero(f"sum by (site, reason) (increase(rounds_updates_rejected_total{{{SITE}}}[1h]))"),
                    "{{site}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Delivered again",
            "Tasks in the last hour that came again: their worker died or was drained.",
            [
                (
                    or_zero(f"sum by (site, phase) (increase(rounds_site_task_redeliveries_total{{{SITE}}}[1h]))"),
                    "{{site}} {{phase}}",
                )
            ],
        ),
    ],
    [Variable("site", "Site", "The sites to look at", "label_values(rounds_site_worker_slots, site)", multi=True)],
)
