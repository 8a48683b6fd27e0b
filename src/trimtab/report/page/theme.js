// The switch between light and dark, and the mark that a page is drawn.

function chooseTheme() {
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll("#theme button")];
  const set = (choice) => {
    root.dataset.theme = choice;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.choice === choice));
  };
  let saved = null;
  try {
    saved = localStorage.getItem("trimtab-theme");
  } catch {
    // a page opened from disk may have no storage
  }
  if (["light", "dark"].includes(saved)) set(saved);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      set(button.dataset.choice);
      try {
        localStorage.setItem("trimtab-theme", button.dataset.choice);
      } catch {
        // then it is forgotten with the page
      }
    });
  }
}

/** Put sections on the page and into its bar; note when they are drawn. */
function present(sections, began) {
  document.getElementById("main").replaceChildren(...sections);
  document.getElementById("contents").append(
    ...sections.map((part) => node("a", { href: `#${part.id}` }, part.querySelector("h2")?.textContent ?? "Summary")),
  );
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.documentElement.dataset.drawn = Math.round(performance.now());
      document.documentElement.dataset.took = Math.round(performance.now() - began);
    }),
  );
}
