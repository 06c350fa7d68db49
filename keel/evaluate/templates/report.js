(() => {
  const tools = document.querySelector(".tools");
  if (!tools) return;
  const samples = [...document.querySelectorAll(".sample")];
  const groups = [...document.querySelectorAll(".group")];
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const buttons = [...tools.querySelectorAll("button")];
  let show = "picked";
  const update = () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    for (const sample of samples) {
      const why = sample.dataset.why;
      const chosen = wanted || show === "all" || (show === "picked" ? why !== "" : why === show);
      sample.hidden = !(chosen && (!wanted || sample.textContent.toLowerCase().includes(wanted)));
      count += sample.hidden ? 0 : 1;
    }
    for (const group of groups) group.hidden = !group.querySelector(".sample:not([hidden])");
    for (const button of buttons) button.setAttribute("aria-pressed", String(!wanted && button.dataset.show === show));
    found.textContent = `${count} shown`;
  };
  for (const button of buttons) button.addEventListener("click", () => { show = button.dataset.show; find.value = ""; update(); });
  find.addEventListener("input", update);
  tools.hidden = false;
  update();
})();
