import { closest } from 'fastest-levenshtein';

/** Throws TypeError for an option that is none of `names`. */
export function checkNames(options: object, names: readonly string[], where: string): void {
  for (const name of Object.keys(options)) {
    if (!names.includes(name))
      throw new TypeError(`${where}: unknown option ${name}; did you mean ${closest(name, names)}?`);
  }
}

/** Throws RangeError for what is no number of seconds. */
export function checkSeconds(value: number, name: string): number {
  if (typeof value === 'number' && value > 0 && value <= 86_400) return value;
  throw new RangeError(`${name}: ${value} is not a number of seconds up to 86400`);
}
