/**
 * The library as users run it: built, from `dist`. The engines are imported one by one, since they load their peers.
 */
export { InMemory, StorageBackend, StorageKey, StoragePrefix, TaskStore, VersionedStore } from "../dist/index.js"
