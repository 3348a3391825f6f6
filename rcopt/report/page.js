"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tipBox = document.getElementById("tip");
  const REACH = 36;
  // Counts what the reader did; an answer that comes late belongs to an earlier turn.
  let turn = 0;

  const place = (mark) => {
    if (mark.tagName === "circle") return [+mark.getAttribute("cx"), +mark.getAttribute("cy")];
    if (mark.tagName === "rect")
      return [+mark.getAttribute("x") + mark.getAttribute("width") / 2, +mark.getAttribute("y") + mark.getAttribute("height") / 2];
    return mark.getAttribute("d").slice(1).split("m")[0].split(",").map(Number);
  };
  const centre = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const marksOf = (svg) => [...svg.querySelectorAll("[data-t]")].filter((m) => !m.closest(".off"));
  const local = (svg, event) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const scale = view.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale, scale];
  };
  const nearest = (svg, event) => {
    const direct = event.target.closest("[data-t]");
    if (direct && direct.tagName === "rect") return direct;
    const [x, y, scale] = local(svg, event);
    let best = null, least = (REACH * scale) ** 2;
    for (const mark of marksOf(svg)) {
      if (mark.tagName === "rect") continue;
      const [a, b] = place(mark), far = (a - x) ** 2 + (b - y) ** 2;
      if (far <= least) [best, least] = [mark, far];
    }
    return best;
  };

  const show = (lines, x, y) => {
    tipBox.replaceChildren(...lines.map((line, i) => {
      const part = document.createElement(i ? "span" : "b");
      part.textContent = line;
      return part;
    }));
    const width = tipBox.offsetWidth, height = tipBox.offsetHeight;
    const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
    const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
    tipBox.style.left = Math.max(4, Math.min(left, innerWidth - width - 4)) + "px";
    tipBox.style.top = Math.max(4, top) + "px";
    tipBox.style.visibility = "visible";
  };
  const aim = (svg, mark) => {
    svg.querySelector(".aim")?.remove();
    if (!mark) return;
    const [x, y] = place(mark);
    const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("class", "aim");
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.setAttribute("r", 8);
    svg.append(ring);
  };
  const hide = (svg) => {
    turn += 1;
    tipBox.style.visibility = "hidden";
    aim(svg, null);
  };
  const over = (svg, mark, x, y) => {
    turn += 1;
    aim(svg, mark);
    const tip = data.tips[+mark.dataset.t];
    show(tip.command ? [...tip.lines, "Click for the command."] : tip.lines, x, y);
  };

  const toClipboard = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  };
  const copy = async (text, button) => {
    const done = await toClipboard(text);
    const code = button.parentElement.querySelector("code");
    if (!done && code) getSelection().selectAllChildren(code);
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2500);
  };
  const copyButton = (command) => {
    const button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", () => copy(command, button));
    return button;
  };
  const pick = async (mark, x, y) => {
    const tip = data.tips[+mark.dataset.t], panel = document.getElementById("pick");
    if (!tip.command) return;
    const code = document.createElement("code");
    code.textContent = tip.command;
    const first = document.createElement("p");
    first.append(code, " ", copyButton(tip.command));
    panel.replaceChildren(first, ...tip.lines.map((line) => {
      const part = document.createElement("p");
      part.textContent = line;
      return part;
    }));
    const mine = (turn += 1);
    const copied = await toClipboard(tip.command);
    if (mine === turn) show([tip.command, copied ? "Copied." : "Copy it below the figure.", ...tip.lines], x, y);
  };

  const overMap = (svg, cells, event) => {
    const map = data.maps[cells.dataset.map];
    const box = cells.getBoundingClientRect();
    const i = Math.min(map.x.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * map.x.length)));
    const j = Math.min(map.y.length - 1, Math.max(0, Math.floor(((box.bottom - event.clientY) / box.height) * map.y.length)));
    show([map.values[i][j], map.x[i], map.y[j]], event.clientX, event.clientY);
  };

  for (const svg of document.querySelectorAll("svg.chart")) {
    const cells = svg.querySelector(".cells");
    let at = -1;
    svg.addEventListener("pointermove", (event) => {
      if (cells && event.target === cells) return overMap(svg, cells, event);
      const mark = nearest(svg, event);
      mark ? over(svg, mark, event.clientX, event.clientY) : hide(svg);
    });
    svg.addEventListener("pointerleave", () => hide(svg));
    svg.addEventListener("blur", () => hide(svg));
    svg.addEventListener("click", (event) => {
      const mark = nearest(svg, event);
      if (mark) pick(mark, event.clientX, event.clientY);
    });
    svg.addEventListener("keydown", (event) => {
      const marks = marksOf(svg).sort((a, b) => place(a)[0] - place(b)[0]);
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!marks.length) return;
      if (step) {
        at = at < 0 && step < 0 ? marks.length - 1 : (at + step + marks.length) % marks.length;
        over(svg, marks[at], ...centre(marks[at]));
        event.preventDefault();
      } else if (event.key === "Enter" && marks[at]) {
        pick(marks[at], ...centre(marks[at]));
      } else if (event.key === "Escape") {
        hide(svg);
      }
    });
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      for (const group of button.closest("figure").querySelectorAll(`[data-s="${button.dataset.s}"]`))
        if (group !== button) group.classList.toggle("off", !on);
    });
  }
  const unfold = () => {
    const fold = location.hash && document.querySelector(`[id="${CSS.escape(location.hash.slice(1))}"] > .fold`);
    if (fold) fold.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  // A link to where the page is already changes no hash.
  for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => setTimeout(unfold));
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll(".fold")) fold.open = true;
  });
  for (const code of document.querySelectorAll("code[data-copy]")) code.after(" ", copyButton(code.textContent));
})();
