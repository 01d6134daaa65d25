/** 75.25 -> "1:15.3"; without tenths "1:15". */
export function clock(seconds, tenths = true) {
  const units = Math.round(seconds * (tenths ? 10 : 1));
  const whole = tenths ? Math.floor(units / 10) : units;
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0") + (tenths ? `.${units % 10}` : "");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  const value = count / 1000 ** power;
  return `${value < 10 && power ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

export const percent = (share) => `${Math.round(100 * share)} %`;

export const plural = (count, one) =>
  `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
