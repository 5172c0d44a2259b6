// Airflow keeps the colour scheme that its user chose in the storage that this page shares; read before the first paint.
"use strict";

const follow = () => {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
};

follow();
addEventListener("storage", follow);
