"""A plain NATS client: publishes a job message on rounds.submit and prints what the conductor makes of it.

usage: publish.py URL TOKEN FILE; prints the event, accepted or rejected, as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path

import nats


async def main(url, token, message):
    client = await nats.connect(url, token=token)
    stream = client.jetstream()
    ack = await stream.publish("rounds.submit", message)
    # The verdict stands on a subject that ends in the submit's sequence, whatever the job is called.
    verdict = await stream.subscribe(f"rounds.job.*.verdict.{ack.seq}", ordered_consumer=True)
    event = await verdict.next_msg(timeout=30)
    print(json.dumps(json.loads(event.data)))
    await client.close()


asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
