const error = document.querySelector("#error");

document.querySelector("#open").addEventListener("submit", (submit) => {
  const id = new FormData(submit.target).get("id");
  // A log is there once something was dispatched to it.
  show(submit, id, () => fetch(`/${id}?type=note`, { method: "POST", body: "somebody came to watch" }));
});

document.querySelector("#start").addEventListener("submit", (submit) => {
  const id = `job-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  // `manual`: following the redirect would open the stream here and wait for its end.
  show(submit, id, () => fetch(`/?id=${id}`, { method: "POST", redirect: "manual" }));
});

async function show(submit, id, prepare) {
  submit.preventDefault();
  try {
    const response = await prepare();
    if (!response.ok && response.type !== "opaqueredirect") throw new Error(await response.text());
    location.assign(`/${id}`);
  } catch (reason) {
    error.textContent = reason.message;
  }
}
