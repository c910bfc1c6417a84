setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch("/", { signal: AbortSignal.timeout(5000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const view = page.getElementById("view");
    if (answer.ok && view) document.getElementById("view").replaceWith(view);
    document.title = page.title || document.title;
  } catch {
    document.title = "lbctl: no answer";
  }
}, 2000);
