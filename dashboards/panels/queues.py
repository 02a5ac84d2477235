"""Queues and workers."""

from .model import Dashboard, Panel, Variable, at_sites, one, per_second

SITE = 'site=~"$site"'

DASHBOARD = Dashboard(
    "queues",
    "Queues and workers",
    "Is there work that nobody takes, and do more workers help.",
    [
        Panel(
            "Waiting",
            "Tasks that no worker has taken. If it stays above 0, start more workers for the phase.",
            [(one("site, phase", "rounds_queue_pending_messages", SITE), "{{site}} {{phase}}")],
            least=0,
        ),
        Panel(
            "Being worked on",
            "Tasks that a worker has taken and not answered.",
            [(one("site, phase", "rounds_queue_ack_pending_messages", SITE), "{{site}} {{phase}}")],
            least=0,
        ),
        Panel(
            "Age of the oldest",
            "Seconds since the oldest unanswered task was published.",
            [(one("site, phase", "rounds_queue_oldest_message_age_seconds", SITE), "{{site}} {{phase}}")],
            "s",
            least=0,
        ),
        Panel(
            "Workers",
            "Tasks that a site's workers can take at once, by phase.",
            [(at_sites("site, phase", "rounds_site_worker_slots", SITE), "{{site}} {{phase}}")],
            least=0,
        ),
        Panel(
            "Busy workers",
            "Share of the workers that work. Near 1 with tasks waiting: more workers help. Preprocessing and training of "
            "one site take turns at its device.",
            [
                (
                    at_sites("site, phase", "rounds_site_tasks_in_flight", SITE)
                    + " / "
                    + at_sites("site, phase", "rounds_site_worker_slots", SITE),
                    "{{site}} {{phase}}",
                )
            ],
            "percentunit",
            least=0,
        ),
        Panel(
            "Work on a task",
            "Mean seconds of work on the tasks that were answered last.",
            [
                (
                    per_second("site, phase", "rounds_site_task_work_seconds_total", SITE)
                    + " / ("
                    + per_second("site, phase", "rounds_site_tasks_total", SITE)
                    + " > 0)",
                    "{{site}} {{phase}}",
                )
            ],
            "s",
            least=0,
        ),
        Panel(
            "Last progress",
            "Seconds since a task of the phase last told of an iteration, case or chunk, where one is being worked on.",
            [
                (
                    "time() - "
                    + one("site, phase", "rounds_site_task_progress_timestamp_seconds", SITE)
                    + " and on (site, phase) "
                    + at_sites("site, phase", "rounds_site_tasks_in_flight", SITE)
                    + " > 0",
                    "{{site}} {{phase}}",
                )
            ],
            "s",
            least=0,
        ),
        Panel(
            "Unanswered after a redelivery",
            "Tasks that were delivered more than once and are not answered.",
            [(one("site, phase", "rounds_queue_redelivered_messages", SITE), "{{site}} {{phase}}")],
            least=0,
        ),
        Panel(
            "Streams",
            "Bytes in each stream of the hub.",
            [(one("stream", "rounds_stream_bytes"), "{{stream}}")],
            "bytes",
            least=0,
        ),
        Panel(
            "Room for artifacts",
            "Share of the bound that is in use. Jobs fail when it is full: raise the bound, or end jobs.",
            [(one("stream", "rounds_stream_bytes") + " / " + one("stream", "rounds_stream_limit_bytes"), "{{stream}}")],
            "percentunit",
            least=0,
            most=1,
        ),
        Panel(
            "Connections to NATS",
            "1 for each process that is read here and is connected.",
            [("max by (instance) (rounds_nats_connected)", "{{instance}}")],
            least=0,
        ),
        Panel(
            "Memory of the processes",
            "Resident memory of each process that is read here.",
            [('max by (instance) (process_resident_memory_bytes{service="rounds"})', "{{instance}}")],
            "bytes",
            least=0,
        ),
    ],
    [
        Variable(
            "site", "Site", "The sites to look at", "label_values(rounds_queue_pending_messages, site)", multi=True
        )
    ],
)
