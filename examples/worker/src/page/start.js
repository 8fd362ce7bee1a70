// Starts orders and shows them, and keeps the last ones of this browser. Until this script is there the form would
// lead to the bare stream, so its button waits.
const RUNS = "ssetarget-demo-runs";
const MOST = 10;

const form = document.querySelector("#start");
const button = form.querySelector("button");
const error = document.querySelector("#start-error");

form.addEventListener("submit", async (submit) => {
  submit.preventDefault();
  button.disabled = true;
  error.textContent = "";
  const { item, quantity, workMs } = Object.fromEntries(new FormData(form));
  try {
    const response = await fetch("/", {
      method: "POST",
      headers: { accept: "application/json", "content-type": "application/json" },
      body: JSON.stringify({ item, quantity: Number(quantity), workMs: Number(workMs) }),
    });
    if (!response.ok) throw new Error(await response.text());
    const { id, page } = await response.json();
    // Without the link's token, which the browser exchanges for a cookie when it opens the page.
    save([{ id, item, quantity: Number(quantity), time: Date.now() }, ...saved()].slice(0, MOST));
    location.assign(page);
  } catch (reason) {
    error.textContent = `The order did not start: ${reason.message}`;
    button.disabled = false;
  }
});

document.querySelector("#forget").addEventListener("click", () => {
  save([]);
  show();
});

/** The runs that were started here, the newest first. Storage may be switched off, or have been changed by hand. */
function saved() {
  try {
    const runs = JSON.parse(localStorage.getItem(RUNS) ?? "[]");
    return Array.isArray(runs) ? runs.filter((run) => typeof run?.id === "string") : [];
  } catch {
    return [];
  }
}

function save(runs) {
  try {
    localStorage.setItem(RUNS, JSON.stringify(runs));
  } catch {
    // They are shown as long as this page is there.
  }
}

function show() {
  const runs = saved();
  document.querySelector("#runs").hidden = runs.length === 0;
  document.querySelector("#runs ul").replaceChildren(
    ...runs.map(({ id, item, quantity, time }) => {
      const link = document.createElement("a");
      link.href = `/${encodeURIComponent(id)}`;
      link.textContent = `${quantity} × ${item}`;
      const when = document.createElement("time");
      const date = new Date(time);
      if (!Number.isNaN(date.valueOf())) {
        when.dateTime = date.toISOString();
        when.textContent = date.toLocaleString();
      }
      const entry = document.createElement("li");
      entry.append(link, " ", when);
      return entry;
    }),
  );
}

show();
// A page that the browser restores from its cache must show orders that were started in the meantime.
addEventListener("pageshow", () => {
  button.disabled = false;
  show();
});
