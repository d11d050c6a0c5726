"use strict";
// The gallery, the search and the corrections of a predict job's page.
{
  const content = JSON.parse(document.getElementById("content").textContent);
  const { classes, labels, photos, names, prefix } = content;
  const PAGE = 24;
  const FOUND = 60;
  const BUTTONS = 3;  // more choices than this become a list
  const LEAVE_OUT = "-";  // in corrections.csv: the photo belongs to no class
  const CHOICES = classes.includes(LEAVE_OUT) ? classes : [...classes, LEAVE_OUT];
  const at = (id) => document.getElementById(id);

  // The corrections: the right class by path. They are kept in localStorage if the browser allows that for a page that
  // was opened as a file.
  const store = {
    key: `catdog corrections ${content.key}`,
    read() {
      try {
        const found = JSON.parse(localStorage.getItem(this.key) || "{}");
        return new Map(Object.entries(found).filter(([, name]) => CHOICES.includes(name)));
      } catch {
        return new Map();
      }
    },
    write(marks) {
      try {
        if (marks.size) localStorage.setItem(this.key, JSON.stringify(Object.fromEntries(marks)));
        else localStorage.removeItem(this.key);
        return true;
      } catch {
        return false;
      }
    },
  };
  const marks = store.read();
  let kept = true;

  const make = (name, properties, ...children) => {
    const { data, ...rest } = properties;
    const element = Object.assign(document.createElement(name), rest);
    Object.assign(element.dataset, data);
    element.append(...children);
    return element;
  };

  const mark = (path, label, right) => {
    if (right && right !== label) marks.set(path, right);
    else marks.delete(path);
    kept = store.write(marks);
    for (const card of document.querySelectorAll(".card")) {
      if (card.dataset.path === path) showMark(card);
    }
    showBasket();
  };

  const showMark = (card) => {
    const right = marks.get(card.dataset.path);
    card.classList.toggle("marked", Boolean(right));
    for (const button of card.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.right === right));
    }
    const list = card.querySelector("select");
    if (list) list.value = right || "";
  };

  const chooser = (path, label, short) => {
    const others = CHOICES.filter((name) => name !== label);
    const say = (name) => (name === LEAVE_OUT && !classes.includes(name) ? "leave out" : `is ${name}`);
    if (others.length > BUTTONS) {
      const options = others.map((name) => make("option", { value: name, textContent: say(name) }));
      const list = make("select", {});
      list.setAttribute("aria-label", `Right class of ${short}`);
      list.append(make("option", { value: "", textContent: label ? "label is right" : "right class …" }), ...options);
      list.addEventListener("change", () => mark(path, label, list.value));
      return [list];
    }
    return others.map((name) => {
      const button = make("button", { type: "button", textContent: say(name), data: { right: name } });
      button.setAttribute("aria-label", `${short}: ${say(name)}`);
      button.addEventListener("click", () => mark(path, label, marks.get(path) === name ? null : name));
      return button;
    });
  };

  // A row is [path below prefix, number of its label or -1, probability or null]. A photo has these values too:
  // [kinds, true label or null, second model's label or null, picture].
  const shown = new Map(photos.map((photo) => [photo[0], photo]));

  const card = (row, { blank }) => {
    const [short, number, probability, , truth, second, picture] = shown.get(row[0]) || row;
    const path = prefix + short;
    const label = number < 0 ? null : labels[number];
    const text = make("div", { className: "text" });
    const said = label === null ? "error" : `${label} ${probability.toFixed(probability > 0.9995 ? 5 : 3)}`;
    text.append(make("span", { className: "said", textContent: said }));
    // A label that is not a class (unsure) contradicts no folder.
    const contradicts = number >= 0 && number < classes.length;
    const folder = { className: contradicts ? "bad" : "name", textContent: `in folder ${truth}` };
    if (truth && truth !== label) text.append(make("span", folder));
    if (second && second !== label) text.append(make("span", { textContent: `second model: ${second}` }));
    text.append(make("span", { className: "name", textContent: short, title: path }));
    const buttons = make("div", { className: "marks" }, ...chooser(path, label, short));
    if (label !== null) text.append(buttons);
    const element = make("li", { className: "card", data: { path } });
    if (picture) {
      const source = `data:image/jpeg;base64,${picture}`;
      element.append(make("img", { src: source, alt: `${short}, labelled ${label}`, loading: "lazy" }));
    } else if (blank) {
      element.append(make("span", { className: "blank", textContent: "no picture" }));
    }
    element.append(text);
    showMark(element);
    return element;
  };

  // The gallery

  let page = 0;
  const confidence = (photo) => photo[2] ?? 0;
  const orders = {
    "least confident first": (a, b) => confidence(a) - confidence(b),
    "most confident first": (a, b) => confidence(b) - confidence(a),
    "by name": (a, b) => (a[0] < b[0] ? -1 : Number(a[0] > b[0])),
  };

  const chosen = () => {
    const label = at("label").value;
    const kind = at("kind").value;
    const wanted = (photo) =>
      (label === "" || photo[1] === Number(label)) &&
      (kind === "" || (kind === "marked" ? marks.has(prefix + photo[0]) : photo[3].includes(Number(kind))));
    return photos.filter(wanted).sort(orders[at("order").value]);
  };

  const showGallery = () => {
    const found = chosen();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.max(0, Math.min(page, pages - 1));
    const part = found.slice(page * PAGE, (page + 1) * PAGE);
    at("photos").replaceChildren(...part.map((photo) => card(photo, { blank: true })));
    at("place").textContent = found.length
      ? `${page * PAGE + 1} to ${page * PAGE + part.length} of ${found.length} shown photos`
      : "No photo matches.";
    at("back").disabled = page === 0;
    at("next").disabled = page + 1 >= pages;
  };

  // The search

  const showFound = () => {
    const text = at("search").value.trim().toLowerCase();
    const found = text ? names.filter((row) => row[0].toLowerCase().includes(text)) : [];
    at("found").replaceChildren(...found.slice(0, FOUND).map((row) => card(row, { blank: false })));
    at("count").textContent = !text
      ? ""
      : found.length > FOUND
        ? `${found.length} names, the first ${FOUND} of them:`
        : `${found.length} name${found.length === 1 ? "" : "s"}`;
  };

  // The corrections

  // A spreadsheet would run such a text as a formula. An apostrophe prevents that, and catdog removes it when it reads
  // the file.
  const guard = (text) => (text !== LEAVE_OUT && /^['=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quote = (text) => `"${guard(text).replaceAll('"', '""')}"`;

  const showBasket = () => {
    at("basket").hidden = marks.size === 0;
    const count = `${marks.size} correction${marks.size === 1 ? "" : "s"}`;
    at("marked").textContent = kept ? count : `${count}; this browser keeps them only while this page is open`;
  };

  const download = () => {
    const lines = ["path,label", ...[...marks].map(([path, right]) => `${quote(path)},${quote(right)}`)];
    const url = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    const link = make("a", { href: url, download: "corrections.csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  for (const id of ["label", "kind", "order"]) {
    at(id).addEventListener("change", () => {
      page = 0;
      showGallery();
    });
  }
  const turn = (step) => {
    page += step;
    showGallery();
    at("gallery").scrollIntoView({ block: "start" });
  };
  at("back").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("search").addEventListener("input", showFound);
  at("download").addEventListener("click", download);
  at("clear").addEventListener("click", () => {
    if (!confirm(`Discard ${marks.size} correction${marks.size === 1 ? "" : "s"}?`)) return;
    marks.clear();
    kept = store.write(marks);
    document.querySelectorAll(".card").forEach(showMark);
    showBasket();
  });
  showGallery();
  showFound();
  showBasket();
}
