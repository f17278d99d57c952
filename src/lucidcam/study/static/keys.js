// The keys 1 to 5 choose an answer; Enter sends it.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const choices = document.querySelectorAll("input[name=answer]");
  const choice = choices[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && choice) {
    choice.checked = true;
    choice.focus();
  }
});
