// Starts a run and shows it. Without this script the form leads to the bare stream.
const form = document.querySelector("#start");

form.addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const id = crypto.randomUUID();
  try {
    // `manual`: following the redirect would open the stream here and wait for its end.
    const response = await fetch(`/?id=${id}`, { method: "POST", redirect: "manual" });
    if (response.type !== "opaqueredirect") throw new Error(await response.text());
    location.assign(`/${id}`);
  } catch (reason) {
    document.querySelector("#start-error").textContent = `The order did not start: ${reason.message}`;
  }
});
