"""`azaion-trainer notify`: one message to a webhook. Its address is a secret and stays out of every log."""

from __future__ import annotations

import logging
import time

import msgspec
import urllib3

from azaion_api.outcome import ExitCode
from azaion_api.resources import to_plain
from azaion_api.task import NoticeTask
from azaion_trainer.secrets import MissingSecretError, SecretFiles
from azaion_trainer.targets import cause, quiet

log = logging.getLogger(__name__)

PAUSES_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
_TIMEOUT = urllib3.Timeout(connect=10, read=30)


def message_of(task: NoticeTask) -> bytes:
    """What the webhook gets. `text` is what chat services show."""
    plain = to_plain(task)
    plain.pop("urlSecret")
    made = f" as models/{task.model.split('/')[1]}" if task.model else ""
    plain["text"] = f"{task.event}: run {task.run} of line {task.line}{made}. {task.message}"
    return msgspec.json.encode(plain)


def notify(task: NoticeTask, secrets: SecretFiles, pauses_s: tuple[float, ...] = PAUSES_S) -> ExitCode:
    """Tell the webhook, again after pauses while it does not take it."""
    quiet()
    reason = ""
    for pause_s in (*pauses_s, None):
        reason = _try(task, secrets)
        if not reason:
            log.info("the webhook was told", extra={"context": {"event": task.event, "run": task.run}})
            return ExitCode.COMPLETED
        log.warning("the webhook was not told", extra={"context": {"event": task.event, "reason": reason}})
        if pause_s is not None:
            time.sleep(pause_s)
    return ExitCode.UPLOAD_FAILED


def _try(task: NoticeTask, secrets: SecretFiles) -> str:
    """Why it was not taken; empty when it was."""
    try:
        url = secrets.key(task.url_secret)
        pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=urllib3.Retry(0, redirect=0))
        answer = pool.request(
            "POST", url, body=message_of(task), headers={"Content-Type": "application/json"}, redirect=False
        )
    except MissingSecretError as error:
        return str(error)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        return f"it cannot be reached: {cause(error)}"
    if not 200 <= answer.status < 300:
        return f"it answers {answer.status}"
    return ""
