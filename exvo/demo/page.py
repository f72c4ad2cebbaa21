"""The page on Gradio, and its server. Import it after `settle`, which turns off what Gradio would tell others."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import uvicorn

from exvo.demo import words
from exvo.demo.guard import Guard
from exvo.demo.listener import Listener, Recording
from exvo.demo.visits import Visits
from exvo.errors import InputError
from exvo.serving.request import MAX_CLIP_BYTES
from exvo.serving.service import MAX_REQUESTS, WORKERS

PLACES = {"one": "A clip of you", "two": "Another clip of you", "burst": "Your burst"}
"""The places of recordings on the page, and what sentences call them."""

SESSION = re.compile(r"\w{1,64}")

GRACE = 3
"""Seconds that open connections have when the server is told to stop."""


class Page:
    """What the page does for its visitors.

    Args:
        listener: the model.
        visits: what is known of each visitor.
    """

    def __init__(self, listener: Listener, visits: Visits) -> None:
        self.listener, self.visits = listener, visits

    def held(self, place: str, file: str | None, request: gr.Request) -> None:
        """Notes that a visitor has recorded, dropped or removed a recording."""
        self.visits.hold(session_of(request), place, file)

    def recording(self, place: str, file: str, request: gr.Request) -> Recording:
        """The recording at a place of the page."""
        return Recording(PLACES[place], Path(file).name, self.visits.read(session_of(request), place, file))

    def enrol(self, one: str | None, two: str | None, request: gr.Request) -> tuple[Any, Any, str]:
        """Enrols a visitor and deletes the clips; what the two places and the status then show."""
        given = {place: file for place, file in (("one", one), ("two", two)) if file}
        try:
            recordings = [self.recording(place, file, request) for place, file in given.items()]
            if not recordings:
                raise InputError("There is no clip yet: record or drop one.")
            profile = self.listener.enrol(recordings)
        except InputError as error:
            return gr.skip(), gr.skip(), words.sentence(str(error), "warning")
        session = session_of(request)
        self.visits.of(session).profile = profile
        for place in given:
            self.visits.hold(session, place, None)
        return None, None, words.enrolled(recordings, len(profile))

    def forget(self, request: gr.Request) -> str:
        """Forgets a visitor's profile; what the status then shows."""
        self.visits.of(session_of(request)).profile = None
        return words.sentence("You are not enrolled.")

    def hear(self, burst: str | None, request: gr.Request) -> str:
        """What is heard in a burst, with the visitor's profile if there is one."""
        try:
            if burst is None:
                raise InputError("There is no burst yet: record or drop one.")
            recording = self.recording("burst", burst, request)
            heard = self.listener.hear(recording, self.visits.of(session_of(request)).profile)
        except InputError as error:
            return words.sentence(str(error), "warning")
        return words.result(heard, self.listener.task, self.listener.personalised)


def session_of(request: gr.Request) -> str:
    """The session of the browser that a request belongs to."""
    session = str(request.session_hash)
    if not SESSION.fullmatch(session):
        raise InputError("The request names no session: load the page again.")
    return session


def blocks(page: Page, model: str, reaches: str, card: str) -> gr.Blocks:
    """The page's layout.

    Args:
        page: what its buttons do.
        model: which model listens.
        reaches: how good it is and what chance is, see `reached_line`; '' where that is not known.
        card: the model card, Markdown.
    """
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    work = quiet | {"concurrency_id": "network", "concurrency_limit": WORKERS, "show_progress": "minimal"}
    with gr.Blocks(title="exvo: vocal bursts", analytics_enabled=False) as layout:
        gr.HTML(words.header(model, reaches))
        if page.listener.personalised:
            gr.Markdown("## Your voice\nOne or two clips of you, any sounds. You can skip this.")
            with gr.Row():
                one, two = recorder("one"), recorder("two")
            with gr.Row():
                enrol = gr.Button("Enrol", interactive=False, elem_id="enrol")
                forget = gr.Button("Forget me", elem_id="forget")
            status = gr.HTML(words.sentence("You are not enrolled."), elem_id="status")
            for place, audio in (("one", one), ("two", two)):
                audio.change(holder(page, place), [audio], None, **quiet)
                audio.change(lambda *files: gr.Button(interactive=any(files)), [one, two], enrol, **quiet)
            enrol.click(page.enrol, [one, two], [one, two, status], **work)
            forget.click(page.forget, None, status, **quiet)
        gr.Markdown("## Your burst\nA laugh, a gasp, a sigh, a cry. Cut silence around it away with the scissors.")
        burst = recorder("burst")
        hear = gr.Button("Recognise", variant="primary", interactive=False, elem_id="hear")
        answer = gr.HTML(elem_id="answer")
        burst.change(holder(page, "burst"), [burst], None, **quiet)
        burst.change(lambda file: gr.Button(interactive=file is not None), [burst], hear, **quiet)
        hear.click(page.hear, [burst], answer, **work)
        with gr.Accordion("Model card", open=False):
            gr.Markdown(card, elem_id="card")
        layout.unload(lambda: None)  # has the browser hold a connection open for as long as the visit lasts
    layout.queue(max_size=MAX_REQUESTS, api_open=False)
    return layout


def recorder(place: str) -> gr.Audio:
    """A place for a recording: the microphone, or a file."""
    return gr.Audio(
        sources=["microphone", "upload"],
        type="filepath",
        label=PLACES[place],
        elem_id=place,
        buttons=[],
        waveform_options=gr.WaveformOptions(waveform_color="#7f8c9b", waveform_progress_color="#0072b2"),
    )


def holder(page: Page, place: str) -> Any:
    """What notes the recording at a place."""

    def held(file: str | None, request: gr.Request) -> None:
        page.held(place, file, request)

    return held


def app(listener: Listener, visits: Visits, model: str, reaches: str, card: str, loopback: bool) -> Guard:
    """The page as an ASGI app; see `blocks`. It answers on loopback alone, or on any address."""
    here = Path(__file__)
    css, script = (here.with_name(name).read_text(encoding="utf-8") for name in ("page.css", "microphone.js"))
    layout = blocks(Page(listener, visits), model, reaches, card)
    mounted = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        layout,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_CLIP_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
            body_text_color_subdued="#5f6368", body_text_color_subdued_dark="#a0a4ab"
        ),
        css=css,
        head=f"<script>{script}</script>",
    )
    return Guard(mounted, visits, loopback)


def listen_on(host: str, port: int) -> socket.socket:
    """A socket on which the page answers.

    Raises:
        InputError: the address is not this machine's, or the port is taken.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The page can't answer on host={host}, port={port} ({why}); give another port, or an address of this "
            "machine."
        ) from None


def serve(guard: Guard, opened: socket.socket) -> None:
    """Answers until the process is told to stop."""
    logging.getLogger("gradio").setLevel(logging.ERROR)
    config = uvicorn.Config(guard, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE)
    uvicorn.Server(config).run(sockets=[opened])
