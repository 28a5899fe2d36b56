// What api/patches.py tells of what changed, applied to what was there before.

/** The new value of an old one; the old one is not touched. */
export function patched(old, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  if ("=" in patch) return patch["="];
  if ("#" in patch) {
    const { "#": length, ">": shift, "@": changed } = patch;
    return Array.from({ length }, (_, place) => {
      const before = old[place + shift];
      return place in changed ? patched(before, changed[place]) : before;
    });
  }
  if (Object.keys(patch["~"]).length + patch["-"].length === 0) return old;
  const gone = new Set(patch["-"]);
  const kept = Object.entries(old).filter(([key]) => !gone.has(key));
  const changed = Object.entries(patch["~"]).map(([key, one]) => [key, patched(old[key], one)]);
  return Object.fromEntries([...kept, ...changed]);
}
