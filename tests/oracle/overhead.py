"""What a round costs without training: Rounds beside NVFLARE, three clients that only touch the weights.

overhead.py simulator|poc MEGABYTES ROUNDS FOLDER   in a Python with nvflare 2.9; prints seconds per round
overhead.py ratios FILE...                          one line per size from the outputs of all: {"peer", "megabytes", "seconds"}

NVFLARE runs its FedAvg recipe on numpy weights: in its simulator, three clients as threads of one process tree; or as its
POC processes, a server and three clients that talk over TLS, each with a process for the job. A round is the time between
two arrivals of the global weights at a client.
"""

import json
import os
import statistics
import sys
from pathlib import Path

CLIENTS = 3
JOB_SECONDS = 900

CLIENT = """
import sys, time
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    with open(sys.argv[1] + "/" + flare.get_site_name(), "a") as file:
        file.write(f"{time.monotonic()}\\n")
    params = {name: value + 1 for name, value in model.params.items()}
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""


def nvflare(peer, megabytes, rounds, folder):
    folder = Path(folder).resolve()
    # It is read when NVFLARE is imported.
    os.environ["NVFLARE_POC_WORKSPACE"] = str(folder / "work")
    import numpy
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe.poc_env import PocEnv
    from nvflare.recipe.sim_env import SimEnv

    times = folder / "times"
    times.mkdir(parents=True)
    script = folder / "touch_weights.py"
    script.write_text(CLIENT)
    start = folder / "start.npy"
    numpy.save(start, numpy.zeros(megabytes * 250_000, numpy.float32))
    recipe = NumpyFedAvgRecipe(
        name="overhead",
        initial_ckpt=str(start),
        min_clients=CLIENTS,
        num_rounds=rounds,
        train_script=str(script),
        train_args=str(times),
    )
    if peer == "poc":
        recipe.execute(PocEnv(num_clients=CLIENTS)).get_result(timeout=JOB_SECONDS)
    else:
        recipe.execute(SimEnv(num_clients=CLIENTS, workspace_root=str(folder / "work"))).get_status()
    seconds = []
    for file in times.iterdir():
        moments = [float(line) for line in file.read_text().split()]
        if len(moments) != rounds:
            sys.exit(f"{file.name}: {len(moments)} of {rounds} rounds")
        seconds += [after - before for before, after in zip(moments, moments[1:])]
    print(json.dumps({"peer": peer, "megabytes": megabytes, "seconds": statistics.median(seconds)}))


def ratios(files):
    found = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            if line.startswith('{"peer"'):
                line = json.loads(line)
                found.setdefault(line["megabytes"], {})[line["peer"]] = line["seconds"]
    print(f"{'model':>10}{'Rounds':>12}{'simulator':>12}{'ratio':>8}{'POC':>12}{'ratio':>8}")
    for megabytes, seconds in sorted(found.items()):
        ours = seconds["rounds"]
        peers = (f"{seconds[peer]:>10.2f} s{seconds[peer] / ours:>8.1f}" for peer in ("simulator", "poc"))
        print(f"{megabytes:>7} MB{ours:>10.2f} s{''.join(peers)}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["simulator" | "poc" as peer, megabytes, rounds, folder]:
            nvflare(peer, int(megabytes), int(rounds), folder)
        case ["ratios", *files] if files:
            ratios(files)
        case _:
            sys.exit(__doc__)
