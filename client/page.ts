/** A list, newest first: iterate over all of it, or read its first page. */
export type Page<Item> = AsyncIterable<Item> & {
  page(): Promise<{ data: Item[]; has_more: boolean }>;
};

/** `read` gives the page after the item of that id; `idOf` says which that is. */
export function pages<Item>(
  read: (after: string | undefined) => Promise<{ data: Item[]; has_more: boolean }>,
  idOf: (item: Item) => string,
): Page<Item> {
  return {
    page: () => read(undefined),
    async *[Symbol.asyncIterator]() {
      for (let after: string | undefined; ; ) {
        const { data, has_more: more } = await read(after);
        yield* data;
        const last = data.at(-1);
        if (!more || last === undefined) return;
        after = idOf(last);
      }
    },
  };
}
