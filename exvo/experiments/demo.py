"""A page in the browser that listens to your microphone.

Record or drop two clips of yourself, which adapt a personalised model to you, then a burst: the page shows the emotions
with and without enrolment, how good the model is and what chance is, and the model card. It answers to this machine
alone unless `host` says otherwise. Nothing is sent elsewhere; recordings are deleted when the page is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from exvo import extras
from exvo.demo.environment import settle
from exvo.demo.guard import LOOPBACK
from exvo.demo.listener import Listener
from exvo.demo.visits import Visits
from exvo.devices import resolve_device
from exvo.experiments.predict import reached
from exvo.options import command_line
from exvo.settings import DemoSettings
from exvo.tracking import models, names, registry


def run(settings: DemoSettings) -> None:
    """Answers until it is stopped, which is its usual end. It makes no run: nothing is worth keeping."""
    device = resolve_device(settings.device)
    with contextlib.closing(Visits()) as visits:
        settle(visits.folder)
        extras.require("gradio", "demo", "exvo demo")
        from exvo.demo import page

        loopback = settings.host in LOOPBACK
        opened = page.listen_on(settings.host, settings.port)
        with contextlib.closing(opened), contextlib.suppress(KeyboardInterrupt):
            checkpoint = models.load_model(settings.model_uri, device=device)
            notes = checkpoint.notes
            model = f"{notes.get('model', 'a model')} of run {notes.get('run_id', 'unknown')}"
            listener = Listener(checkpoint, device)
            line = "".join(reached(checkpoint))
            guard = page.app(listener, visits, model, line, card(settings.model_uri, notes), loopback)
            print(model, *([line] if line else []), sep="\n")
            if not loopback:
                print("note: whoever reaches this address can use the page; it asks for no password.")
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            print(f"open http://{host}:{settings.port} (Ctrl-C ends it)", flush=True)
            page.serve(guard, opened)
    print("The page has ended; all recordings are deleted.")


def card(uri: str, notes: Mapping[str, object]) -> str:
    """The model card, in Markdown, of a registered version or of the newest that a run is registered as.

    Args:
        uri: of the model or run, as the user gave it.
        notes: of the model's file, which name its run.
    """
    run_id = str(notes.get("run_id", ""))
    run = names.run_of_id(run_id)
    version = None if run is None else registry.version_of(run)
    if version is None or not version.description:
        return f"This model is not registered, so it has no card. `{command_line('register', {'run_id': run_id})}`"
    return str(version.description)
