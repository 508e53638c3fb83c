// A button on each block of code that copies it.
document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("div.highlight")) {
    const code = block.querySelector("pre").textContent, button = document.createElement("button");
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.trimEnd());
      button.textContent = "Copied";
      setTimeout(() => button.textContent = "Copy", 1500);
    });
    block.append(button);
  }
});
