// The microphone as it is: what browsers do to speech (noise suppression, gain control) takes gasps and laughs for noise.
// Where it can't be had, a sentence at the top of the page says why.
(() => {
  const say = (text) => {
    const place = document.getElementById("microphone");
    if (place) { place.textContent = text; place.hidden = !text; if (text) place.scrollIntoView({ block: "center" }); }
  };
  const reasons = {
    NotAllowedError: "The browser was not allowed to use the microphone: allow it in the address bar, or drop a file.",
    NotFoundError: "The browser finds no microphone: plug one in, or drop a file.",
    NotReadableError: "The microphone can't be read: another program may be using it. Close that, or drop a file.",
  };
  const devices = navigator.mediaDevices;
  if (!devices || !devices.getUserMedia) {
    const wait = setInterval(() => {
      if (!document.getElementById("microphone")) return;
      clearInterval(wait);
      say("Browsers open the microphone only on localhost or over https: drop files instead.");
    }, 200);
    return;
  }
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    const own = typeof wanted?.audio === "object" ? wanted.audio : {};
    const plain = { ...own, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      const stream = await open({ ...wanted, audio: plain });
      say("");
      return stream;
    } catch (error) {
      say(reasons[error.name] ?? `The microphone can't be opened (${error.name}): drop a file instead.`);
      throw error;
    }
  };
})();
