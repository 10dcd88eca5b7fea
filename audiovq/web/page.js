// Players: one at a time, a line over the spectrogram where they are, and clicks into it to go elsewhere.
(() => {
  const rowOf = (element) => element.closest(".avq-row");
  const audioOf = (row) => row && row.querySelector("audio");
  const place = (row) => {
    const audio = audioOf(row), plot = row.querySelector("svg.plot");
    if (!audio || !plot || !audio.duration) return;
    const x = +plot.dataset.left + plot.dataset.width * Math.min(1, audio.currentTime / audio.duration);
    const line = plot.querySelector(".playhead");
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    row.classList.add("started");
  };
  const follow = (row) => {
    place(row);
    if (!audioOf(row).paused && row.isConnected) requestAnimationFrame(() => follow(row));
  };
  const play = (row, seconds) => {
    const audio = audioOf(row);
    for (const other of document.querySelectorAll(".avq-row.playing")) {
      if (other === row) continue;
      if (seconds === undefined && rowOf(other).parentNode === row.parentNode)
        seconds = audioOf(other).currentTime;
      audioOf(other).pause();
    }
    if (seconds !== undefined) audio.currentTime = Math.min(seconds, audio.duration || seconds);
    audio.play();
  };
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const row = rowOf(target), audio = audioOf(row);
    const link = target.closest("a[data-wav]"), copy = target.closest("a[data-copy]");
    if (link && audio) link.href = audio.src;
    if (copy) {
      event.preventDefault();
      const text = document.getElementById(copy.dataset.copy);
      text.select();
      if (navigator.clipboard) navigator.clipboard.writeText(text.value);
      else document.execCommand("copy");
      copy.textContent = "Copied";
    }
    if (!audio) return;
    if (target.closest(".avq-play")) return audio.paused ? play(row) : audio.pause();
    const plot = target.closest("svg.plot");
    if (plot) {
      const box = plot.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * plot.dataset.full - plot.dataset.left;
      const share = x / plot.dataset.width;
      if (share >= 0 && share <= 1) play(row, share * audio.duration);
    }
  });
  for (const name of ["play", "pause", "ended", "seeked"]) {
    document.addEventListener(name, (event) => {
      const row = event.target instanceof Element && rowOf(event.target);
      if (!row) return;
      row.classList.toggle("playing", !event.target.paused);
      if (name === "play") follow(row);
      else place(row);
    }, true);
  }
})();
