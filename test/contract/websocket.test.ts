import { behaviour } from './behaviour.ts';
import { webSocketDriver } from './websocket-driver.ts';

behaviour('HTTP and the WebSocket', webSocketDriver);
