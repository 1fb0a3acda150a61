// The eye in the password field of the login page.
for (const button of document.querySelectorAll("[data-show-password]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const input = button.parentElement.querySelector("input");
    const shown = input.type === "text";
    input.type = shown ? "password" : "text";
    button.setAttribute("aria-pressed", !shown);
  });
}
