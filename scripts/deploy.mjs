// npm run deploy [-- --dry-run | further arguments of `wrangler deploy`]: builds the demo Worker, checks the size of
// the upload, and deploys it. docs/deploy.md has all the steps.
import { capture, Failure, foreground, main } from "./lib/run.mjs";
import { buildWorker } from "./lib/build.mjs";
import { WRANGLER, checkSize, deployEnv, dryRun } from "./lib/deploy.mjs";
import { modernNode } from "./lib/setup.mjs";

main(async () => {
  const args = process.argv.slice(2);
  const isDry = args.includes("--dry-run");
  const given = args.filter((arg) => arg !== "--dry-run");
  await buildWorker("demo");
  checkSize(await dryRun(given));
  if (isDry) return;

  const who = capture(modernNode(), [WRANGLER, "whoami"], { env: deployEnv() });
  if (who === null) throw new Failure("wrangler cannot ask who you are: is Cloudflare's API reached from here?");
  if (/not authenticated/.test(who)) {
    throw new Failure(
      "you are not logged in to Cloudflare. Run `npx wrangler login`, which opens a browser; or, on a machine without " +
        "one, set CLOUDFLARE_API_TOKEN to a token made from the template \"Edit Cloudflare Workers\", and " +
        "CLOUDFLARE_ACCOUNT_ID if it has several accounts. Then try again.",
    );
  }
  const code = await foreground(modernNode(), [WRANGLER, "deploy", ...given], { env: deployEnv(), stdin: "inherit" });
  if (code !== 0) throw new Failure("it is not deployed.");
  console.log(`
Start a run at the address above, and watch it:

  curl -i -X POST https://<address>        # the Location header is /<id>/sse
  curl -N https://<address>/<id>/sse

docs/deploy.md says what is open, what it costs, and how to roll back.`);
});
