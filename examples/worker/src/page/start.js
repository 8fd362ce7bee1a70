// Starts a run and shows it. Until this script is there the form would lead to the bare stream, so
// its button waits.
const form = document.querySelector("#start");

form.addEventListener("submit", async (submit) => {
  submit.preventDefault();
  // Not `randomUUID`, which a page served by plain HTTP from another machine does not have.
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    // `manual`: following the redirect would open the stream here and wait for its end.
    const response = await fetch(`/?id=${id}`, { method: "POST", redirect: "manual" });
    if (response.type !== "opaqueredirect") throw new Error(await response.text());
    location.assign(`/${id}`);
  } catch (reason) {
    document.querySelector("#start-error").textContent = `The order did not start: ${reason.message}`;
  }
});

form.querySelector("button").disabled = false;
