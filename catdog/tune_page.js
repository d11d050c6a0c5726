"use strict";
// Which of the scatter charts of a sweep is shown.
{
  const knob = document.getElementById("knob");
  const score = document.getElementById("score");
  const show = () => {
    for (const chart of document.querySelectorAll("[data-knob]")) {
      chart.hidden = chart.dataset.knob !== knob.value || chart.dataset.score !== score.value;
    }
  };
  for (const list of [knob, score]) list?.addEventListener("change", show);
  if (knob) show();
}
