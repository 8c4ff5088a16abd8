/* A picture that scrolls in its own box can be reached, and scrolled, with the keyboard. */
function reachPictures() {
  for (const box of document.querySelectorAll(".picture")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("load", reachPictures);
window.addEventListener("resize", reachPictures);
