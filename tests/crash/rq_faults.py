"""The faults of the RQ matrix: the common ones, and those of horses, registries and a broker that keeps no copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.crash import faults
from tests.crash.faults import LIMIT, WRITES, Play, is_alive, is_connected, lose_the_message, open_at_last
from tests.crash.rq_stage import RQStage
from tests.crash.stage import SOON
from tests.crash.words import QUEUE, STEPS
from tests.servers import TcpProxy, eventually

#: How often a horse is killed that is killed at every attempt: as often as an idempotent step is taken over.
DEATHS = 3
#: Seconds for which a worker may try to reach a Redis that is gone, one command after the other.
PATIENT = 120.0
#: Moments at which RQ has the result, and nothing is started any more.
OVER = ("after-commit", "after-result")


def on(play: Play) -> RQStage:
    """The stage, as RQ's."""
    assert isinstance(play.stage, RQStage)
    return play.stage


def orphan(play: Play) -> None:
    """Kills the parent alone. RQ gives the job up and sends it again while the orphaned horse still runs it."""
    stage, moment = on(play), play.cell.moment
    with open_at_last(play.gate(moment)) as gate:
        play.start()
        stage.orphan(gate.arrived(timeout=SOON)["pid"])
        if moment not in OVER:
            stage.give_up_started()
            eventually(lambda: play.deliveries() > 1, SOON, "the second delivery")


def given_up(play: Play) -> None:
    """RQ gives a job up, as its maintenance does with one whose heartbeat is late, while its body runs."""
    retries = play.cell.moment == "retry"
    with open_at_last(play.gate("after-effect")) as gate:
        play.start(play.cell.moment)
        gate.arrived(timeout=SOON)
        on(play).give_up_started()
        if retries:
            eventually(lambda: play.deliveries() > 1, SOON, "the second delivery")


def unretried(play: Play) -> None:
    """Kills where nothing asks RQ for a repetition."""
    stage = on(play)
    kill = stage.kill_child if play.cell.deed == "unretried-horse" else stage.kill_worker
    with open_at_last(play.gate(play.cell.moment)) as gate:
        play.start("plain")
        kill(gate.arrived(timeout=SOON)["pid"])
        if play.cell.deed == "unretried-both":
            stage.give_up_started()


def requeued(play: Play) -> None:
    """The horse dies, RQ calls the job failed, and an operator requeues it."""
    stage = on(play)
    with open_at_last(play.gate("after-effect")) as gate:
        play.start("plain")
        stage.kill_child(gate.arrived(timeout=SOON)["pid"])
        eventually(lambda: stage.result_state(play.task_id) != "started", SOON, "RQ's own verdict")
        stage.requeue(play.task_id)


def always(play: Play) -> None:
    """The process that runs the step dies at every attempt; after some, it does not any more."""
    stage = on(play)
    kill = stage.kill_worker if play.cell.worker == "simple" else stage.kill_child
    # Undeclared there is no second attempt, and a probe finds after the first that it happened.
    deaths = DEATHS if play.cell.safety in ("idempotent", "transactional") else 1
    gate = play.gate("after-effect")
    play.start()
    for number in range(deaths):
        with open_at_last(gate):
            pid = gate.arrived(timeout=SOON)["pid"]
            if number + 1 < deaths:
                gate = play.gate("after-effect")
            kill(pid)


def callback(play: Play) -> None:
    """The caller's own `on_success` raises once: RQ calls the job failed and sends it again."""
    step, moment = play.stage.told(play.cell, "on-success")
    play.stage.bank.rule("find checks", "fail", reference=f"{play.order}/{step}/{moment}", times=1)
    play.start("callback")


def again(play: Play) -> None:
    """The function returns a Retry once: not done yet."""
    step, moment = play.stage.told(play.cell, "is-it-time")
    play.stage.bank.rule("find checks", "fail", reference=f"{play.order}/{step}/{moment}", times=1)
    play.start("again")


def two_queues(play: Play) -> None:
    """A worker of two queues dies between taking a job and saying so: RQ itself loses that job for ever."""
    with play.stage.occupied(play.order), open_at_last(play.gate("taken")) as gate:
        play.stage.start_workers("two", queues=f"{QUEUE} spare")
        play.stage.await_workers()
        play.start()
        play.stage.kill_worker(gate.arrived(timeout=SOON)["pid"])


def flush(play: Play) -> None:
    """Loses everything in Redis between a job's publication and its delivery, one job after the other."""
    with play.stage.occupied(play.order) as busy:
        play.start()
        lose_the_message(play.stage)
        if play.cell.shape != "chain":
            return
        # One worker is kept busy, so that what is sent while the other one stands still stays in the queue.
        gates = [play.passing(step, "after-result") for step in STEPS[:-1]]
        busy[0].release()
        for gate in gates:
            with open_at_last(gate):
                gate.arrived(timeout=SOON)
                lose_the_message(play.stage)


def flush_running(play: Play) -> None:
    """Loses everything in Redis while a step runs."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start()
        gate.arrived(timeout=SOON)
        play.stage.lose_messages()


def redis_away(play: Play) -> None:
    """Redis is gone for one worker when that is to tell it of a success."""
    stage = on(play)
    with TcpProxy.before(stage.redis.url) as proxy, stage.occupied(play.order):
        stage.start_workers("far", redis=proxy.url(stage.redis.url))
        stage.await_workers()
        with open_at_last(play.gate("after-end")) as gate:
            play.start(play.cell.moment)
            pid = gate.arrived(timeout=SOON)["pid"]
            proxy.cut()
            gate.release()
            eventually(lambda: not is_alive(pid), PATIENT, "the end of the process that cannot tell")
        stage.stop_workers("far")


def cold(play: Play) -> None:
    """A cold shutdown: SIGTERM twice, as containers are stopped."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start()
        on(play).end_cold(gate.arrived(timeout=SOON)["pid"])


def stop(play: Play) -> None:
    """An operator stops the job: RQ kills its horse and never retries it."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start()
        pid = gate.arrived(timeout=SOON)["pid"]
        on(play).stop_job(play.task_id)
        eventually(lambda: not is_alive(pid), SOON, "the end of the horse")


def timeout(play: Play) -> None:
    """The job takes longer than its `job_timeout`, after the effect."""
    with open_at_last(play.gate("after-effect")) as gate:
        play.start(play.cell.moment, job_timeout=LIMIT)
        pid = gate.arrived(timeout=SOON)["pid"]
        # The signal has come when the process gives its request up.
        eventually(lambda: not is_connected(play, pid), SOON, "the time-out")


def away(play: Play) -> None:
    """As everywhere; and where a job joins the run of what it depends on, the caller is told, and tries again."""
    if play.cell.moment != "join":
        faults.away(play)
        return
    with open_at_last(play.passing(STEPS[1], "before-join")) as gate, ThreadPoolExecutor(1) as web:
        asked = web.submit(play.ask_to_start)
        gate.arrived(timeout=SOON)
        play.stage.web_proxy.cut()
        try:
            gate.release()
            answer = asked.result(SOON)
            if answer.get("error") != "JournalUnreachable":
                raise AssertionError(f"the journal is away, and the job that joins answered {answer}")
            faults.stay_away(play)
        finally:
            play.stage.web_proxy.restore()
    play.start()


def lost(play: Play) -> None:
    """As everywhere; and where a job joins the run of what it depends on."""
    if play.cell.moment != "join":
        faults.lost(play)
        return
    with open_at_last(play.passing(STEPS[1], "before-join")) as gate, ThreadPoolExecutor(1) as web:
        asked = web.submit(play.ask_to_start)
        gate.arrived(timeout=SOON)
        lost = play.stage.web_proxy.lose_commit_of(*WRITES["join"])
        gate.release()
        play.is_started(asked.result(SOON))
        lost.wait(SOON)


ACTS: dict[str, Callable[[Play], None]] = {
    "kill-horse": faults.kill_child,
    "kill-both": faults.kill_worker,
    "orphan": orphan,
    "unretried-horse": unretried,
    "unretried-both": unretried,
    "requeued": requeued,
    "always": always,
    "callback": callback,
    "again": again,
    "two-queues": two_queues,
    "given-up": given_up,
    "twice": faults.twice,
    "flush": flush,
    "flush-running": flush_running,
    "redis-away": redis_away,
    "cold": cold,
    "stop": stop,
    "timeout": timeout,
    "error": faults.error,
    "away": away,
    "lost": lost,
    "frozen": faults.frozen,
    "plain-all": faults.plain_all,
    "plain-first": faults.plain_first,
}
