"use strict";
(() => {
  const LOWEST = 0.05; // the server is asked once for what has this score; the slider chooses among it
  const MOST_NAMES = 30; // on a picture: of more boxes they would hide the objects
  const MOST_TRIES = 5; // at a server that is busy
  const LONGEST_WAIT = 60; // seconds, for it
  const REMEDIES = {
    413: "Make the picture smaller, or start the server with a larger --max-mb.",
    429: "Try again when it is less busy.",
    503: "Try again in a while.",
    504: "Try again, or send a smaller picture.",
  };
  const $ = (id) => document.getElementById(id);
  const pictures = [];
  let shown, chosen, token = "", label = "", pinned = "", sending = false, loaded = false;

  const make = (tag, properties, ...inside) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...inside);
    return made;
  };
  const text = (tag, textContent) => make(tag, { textContent });
  const counted = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const say = (sentence) => { $("said").textContent = sentence; };
  // Of the score: what the slider was set to; until then the model's own threshold.
  const least = () => chosen ?? Math.max(shown.answer?.default_score ?? 0.5, LOWEST);
  const kept = ({ found }) => found.filter((one) => one.score >= least() && (!label || one.label === label));

  // Sending: one picture after another, in the order in which they came.
  const add = (files, none) => {
    if (!files.length) return say(none);
    const added = [...files].map((file) => {
      const mark = make("span"), button = make("button", { type: "button" }, text("bdi", file.name), mark);
      const picture = { file, button, mark, state: "waits", message: "", tries: 0 };
      button.addEventListener("click", () => show(picture));
      $("pictures").append(make("li", {}, button));
      return picture;
    });
    pictures.push(...added);
    $("results").hidden = false;
    show(added[0]);
    send();
  };
  const send = async () => {
    if (sending) return;
    sending = true;
    for (let next; (next = pictures.find((one) => one.state === "waits")) && (await ask(next)); );
    sending = false;
  };
  const turn = (picture, state, message = "") => {
    Object.assign(picture, { state, message });
    if (picture === shown) show(picture);
    else mark();
    if (message) say(sentence(picture));
    return true;
  };
  const ask = async (picture) => {
    const { file } = picture, body = new FormData(), headers = token ? { Authorization: `Bearer ${token}` } : {};
    turn(picture, "is being looked at");
    const readable = await file.slice(0, 1).arrayBuffer().catch(() => null);
    if (!readable) return turn(picture, "failed", "This cannot be read: a folder, or a file that has changed or gone.");
    body.append("image", file);
    let answer, said;
    try {
      answer = await fetch(`predict?score=${LOWEST}`, { method: "POST", body, headers });
      said = await answer.text();
    } catch {
      const size = `${(file.size / 1e6).toFixed(1)} MB`;
      return turn(picture, "failed", `The server gave no answer. It may have stopped, or take no file of ${size}.`);
    }
    let told = null;
    try { told = JSON.parse(said); } catch { /* a proxy's page */ }
    const image = answer.ok && told?.images?.[0];
    if (!image?.detections) {
      const why = answer.ok ? "this is no answer of /predict" : answer.statusText || "it does not say why";
      return refused(picture, answer, String(told?.error ?? why));
    }
    const found = [...image.detections].sort((a, b) => b.score - a.score);
    Object.assign(picture, { answer: told, image, found });
    return turn(picture, "done");
  };
  const refused = async (picture, { status, headers }, error) => {
    const { name } = picture.file, told = error.startsWith(`${name}: `) ? error.slice(name.length + 2) : error;
    const why = told.replace(/[.\s]*$/, "."), after = Number(headers.get("Retry-After"));
    if (status === 401) {
      turn(picture, "waits", token ? "The server does not take this token." : "The server asks for a token.");
      $("ask").hidden = false;
      $("token").select();
      return false;
    }
    if ([429, 503].includes(status) && after > 0 && after <= LONGEST_WAIT && ++picture.tries < MOST_TRIES) {
      turn(picture, "is sent again", `Not yet (${status}): ${why} It is sent again in ${counted(after, "second")}.`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * after));
      return turn(picture, "waits");
    }
    return turn(picture, "failed", `The server refuses it (${status}): ${why} ${REMEDIES[status] ?? ""}`);
  };

  // Showing: what is in one picture, at this score and of this class.
  const sentence = (picture) => {
    const { file: { name }, found, message, state } = picture;
    if (!found) return `${name}: ${message || state}`;
    const wanted = `a score of ${least().toFixed(2)} or more${label && ` and the class ${label}`}`, count = kept(picture).length;
    if (count) return `${name}: ${counted(count, "detection")} with ${wanted}.`;
    if (found.length) return `${name}: no detection with ${wanted}; ${found.length.toLocaleString("en")} without that.`;
    return `${name}: nothing was found, not even at a score of ${LOWEST}.`;
  };
  const mark = () => {
    for (const one of pictures) {
      one.mark.textContent = one.found ? counted(kept(one).length, "detection") : one.state;
      one.button.ariaCurrent = String(one === shown);
    }
  };
  const show = (picture) => {
    if (picture !== shown) {
      URL.revokeObjectURL($("picture").src);
      $("picture").src = URL.createObjectURL(picture.file);
      $("picture").alt = picture.file.name;
      pinned = "";
      loaded = false;
    }
    shown = picture;
    const labels = new Set([...(picture.found ?? []).map((one) => one.label), ...(label ? [label] : [])]);
    const options = [...labels].sort().map((one) => new Option(one, one, false, one === label));
    $("class").replaceChildren(new Option("all", ""), ...options);
    render();
  };
  const fit = () => {
    const { image, answer, file } = shown, { naturalWidth, naturalHeight } = loaded ? $("picture") : {};
    const [width, height] = image ? [image.width, image.height] : [naturalWidth, naturalHeight];
    $("frame").style.setProperty("--width", width);
    $("frame").style.setProperty("--ratio", width / height || 1);
    const size = width ? `, ${width.toLocaleString("en")} × ${height.toLocaleString("en")} pixels` : "";
    $("file").textContent = file.name;
    $("size").textContent = size + (answer ? `, model ${answer.model}` : "");
    const unseen = "This browser cannot show a picture of this kind. Boxes are drawn where they are in it.";
    const turned = "This browser shows the picture at another size or turned; the boxes may not lie on what they mean.";
    $("frame").hidden = loaded && !width;
    const same = width === naturalWidth && height === naturalHeight;
    $("note").textContent = !loaded ? "" : !naturalWidth ? (image ? unseen : "") : same ? "" : turned;
  };
  const drawn = (one) => {
    const { image: { width, height }, answer, found } = shown, [x1, y1, x2, y2] = one.box;
    const number = String(found.indexOf(one) + 1), hue = (answer.classes.indexOf(one.label) * 137.5 + 140) % 360;
    const name = make("b", {}, number, text("span", ` ${one.label}`));
    const box = make("i", { className: `${x1 + x2 > width ? "end" : ""} ${y1 < 0.1 * height ? "top" : ""}` }, name);
    const at = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
    for (const [side, share] of Object.entries(at)) box.style.setProperty(side, `${100 * share}%`);
    const where = `x ${Math.round(x1)} to ${Math.round(x2)}, y ${Math.round(y1)} to ${Math.round(y2)}`;
    const parts = [text("span", number), text("bdi", one.label), text("span", one.score.toFixed(2)), text("small", where)];
    const button = make("button", { type: "button", ariaPressed: String(number === pinned) }, ...parts);
    for (const part of [box, button]) {
      part.dataset.number = number;
      part.style.setProperty("--colour", `hsl(${hue} 85% 60%)`);
    }
    return { box, button, area: at.width * at.height };
  };
  const render = () => {
    const rows = shown.found ? kept(shown).map(drawn) : [];
    $("list").replaceChildren(...rows.map(({ button }) => make("li", {}, button)));
    rows.sort((a, b) => b.area - a.area); // so that the pointer reaches a box inside another
    $("boxes").replaceChildren(...rows.map(({ box }) => box));
    $("boxes").classList.toggle("many", rows.length > MOST_NAMES);
    $("threshold").value = least();
    $("score").textContent = least().toFixed(2);
    $("json").value = shown.answer ? written() : "";
    $("copy").disabled = $("save").disabled = !shown.answer;
    $("again").hidden = shown.state !== "failed";
    $("none").textContent = rows.length ? "" : sentence(shown);
    say(sentence(shown));
    mark();
    fit();
    light();
  };
  const written = () =>
    JSON.stringify({ ...shown.answer, score: least(), images: [{ ...shown.image, detections: kept(shown) }] }, null, 1);

  // A box and its line in the list are lit together: those under the pointer, with the focus, or pinned by a click.
  const light = (number = document.activeElement?.dataset.number ?? pinned) => {
    const parts = [...document.querySelectorAll("[data-number]")];
    for (const part of parts) part.classList.toggle("lit", part.dataset.number === number);
    $("boxes").classList.toggle("dim", parts.some((part) => part.dataset.number === number));
  };
  for (const [place, other] of [["list", "boxes"], ["boxes", "list"]]) {
    const at = (event) => event.target.closest("[data-number]")?.dataset.number;
    for (const kind of ["pointerover", "focusin"]) $(place).addEventListener(kind, (event) => light(at(event)));
    for (const kind of ["pointerout", "focusout"]) $(place).addEventListener(kind, () => light());
    $(place).addEventListener("click", (event) => {
      const number = at(event);
      if (!number) return;
      pinned = pinned === number ? "" : number;
      for (const button of $("list").querySelectorAll("button")) button.ariaPressed = String(button.dataset.number === pinned);
      $(other).querySelector(`[data-number="${number}"]`).scrollIntoView({ block: "nearest", inline: "nearest" });
      light(number);
    });
  }

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(written());
    } catch { // without TLS a browser lets a page copy no more than what is selected
      $("raw").open = true;
      $("json").select();
      if (!document.execCommand("copy")) return say("This browser lets no page copy. The JSON is selected: press Ctrl+C.");
      $("copy").focus();
    }
    $("copy").textContent = "Copied ✓";
    setTimeout(() => { $("copy").textContent = "Copy JSON"; }, 2000);
    say(`The JSON of ${counted(kept(shown).length, "detection")} is copied.`);
  };
  const save = () => {
    const href = URL.createObjectURL(new Blob([written()], { type: "application/json" }));
    make("a", { href, download: `${shown.file.name.replace(/\.\w+$/, "")}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  };
  const on = (place, kind, act) => place.addEventListener(kind, act);
  on($("copy"), "click", copy);
  on($("save"), "click", save);
  on($("threshold"), "input", () => {
    chosen = Number($("threshold").value);
    render();
  });
  on($("class"), "change", () => {
    label = $("class").value;
    render();
  });
  on($("actual"), "click", () => {
    const actual = $("view").classList.toggle("actual");
    $("actual").ariaPressed = String(actual);
    $("view").tabIndex = actual ? 0 : -1;
  });
  on($("again"), "click", () => {
    shown.tries = 0;
    turn(shown, "waits");
    shown.button.focus();
    send();
  });
  for (const kind of ["load", "error"]) {
    on($("picture"), kind, () => {
      loaded = true;
      fit();
    });
  }
  on($("ask"), "submit", (event) => {
    event.preventDefault();
    token = $("token").value;
    $("ask").hidden = true;
    shown.button.focus();
    send();
  });

  on($("files"), "change", () => {
    add($("files").files, "No picture was chosen.");
    $("files").value = ""; // so that the same can be chosen again
  });
  on(document, "paste", (event) => {
    if (event.target !== $("token")) add(event.clipboardData.files, "There is no picture in the clipboard.");
  });
  const drag = (event, dragging) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", dragging);
  };
  on(document, "dragover", (event) => drag(event, true));
  on(document, "dragleave", (event) => drag(event, event.relatedTarget !== null));
  on(document, "drop", (event) => {
    drag(event, false);
    add(event.dataTransfer.files, "That is no file. Save the picture first and drop it, or copy and paste it.");
  });
})();
