const error = document.querySelector("#error");

document.querySelector("#open").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const id = new FormData(submit.target).get("id");
  // A log is there once something was dispatched to it.
  await go(fetch(`/${id}?type=note`, { method: "POST", body: "somebody came to watch" }), () => id);
});

async function go(request, id) {
  try {
    const response = await request;
    if (!response.ok) throw new Error(await response.text());
    location.assign(`/${await id(response)}`);
  } catch (reason) {
    error.textContent = reason.message;
  }
}
