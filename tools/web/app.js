// `fastgha app`: photographs to a head, by the program that serves this page on this machine.

/** Ask the program, and return what it says; throw its sentence if it refuses. */
async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => { throw new Error("The program does not answer. Is it still running?"); });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error ?? `The program answered ${answer.status}.`);
  return said;
}

export function startApp(head, say, drawer) {
  const box = document.getElementById("app"), drop = document.getElementById("drop"), input = document.getElementById("files");
  const photos = document.getElementById("photos"), make = document.getElementById("make");
  const progress = document.getElementById("progress"), bar = progress.querySelector("progress"), stage = progress.querySelector("p");
  let chosen = [];
  box.hidden = false;
  document.body.classList.add("empty");
  drawer(true);

  function choose(files) {
    chosen = [...chosen, ...[...files].filter((file) => file.type.startsWith("image/"))].slice(0, 6);
    photos.replaceChildren(...chosen.map((file) => {
      const image = new Image();
      image.src = URL.createObjectURL(file);
      image.alt = file.name;
      image.title = "Click to compare, twice to leave out";
      image.tabIndex = 0;
      image.onclick = () => compare(image.src);
      image.onkeydown = ({ key }) => {
        if (key === "Enter") compare(image.src);
        if (key === "Delete") image.ondblclick();
      };
      image.ondblclick = () => {
        compare("");
        chosen = chosen.filter((other) => other !== file);
        choose([]);
      };
      return image;
    }));
    make.hidden = chosen.length === 0;
  }

  input.onchange = () => { choose(input.files); input.value = ""; };
  drop.onkeydown = (event) => { if (event.key === "Enter") input.click(); };
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); choose(event.dataTransfer.files); };

  make.onclick = async () => {
    try {
      make.hidden = true;
      await ask("photos", { method: "DELETE" });
      for (const file of chosen)
        await ask(`photos?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      await ask("avatar", { method: "POST" });
      await watch();
    } catch (error) {
      make.hidden = false;
      progress.hidden = true;
      say(error.message);
    }
  };

  async function watch() {
    progress.hidden = false;
    for (;;) {
      const state = await ask("state");
      stage.textContent = state.stage;
      if (state.share > 0) bar.value = state.share;
      else bar.removeAttribute("value");
      if (state.error) throw new Error(state.error);
      if (state.ready) break;
      await new Promise((go) => setTimeout(go, 400));
    }
    progress.hidden = true;
    make.hidden = chosen.length === 0;
    await show();
  }

  async function show() {
    head.say("");
    head.setAttribute("src", `avatar.js?${Date.now()}`);
    await head.ready;
    saves.hidden = false;
    document.body.classList.remove("empty");
    drawer(false);
  }

  // Beside the head, a photograph that was clicked, to compare.
  const beside = document.getElementById("beside"), saves = document.getElementById("saves");
  beside.onclick = () => compare("");
  function compare(address) {
    beside.hidden = !address;
    document.body.classList.toggle("compared", Boolean(address));
    if (address) beside.src = address;
  }

  ask("state").then((state) => {
    if (state.ready) return show();
    head.say("The head comes here.");
    return state.busy ? watch() : null;
  }).catch((error) => say(error.message));
}
